package podrun

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typed "k8s.io/client-go/kubernetes/typed/core/v1"

	"thaw/activities/cluster"
	"thaw/activities/kando"
	"thaw/blueprints/fault"
)

type podInterface = typed.PodInterface

// reader reads the log of the output container once, line by line, over any
// number of streams: each line carries its time, by which the next stream goes
// on after it. What it read is remembered, for an attempt in another worker.
type reader struct {
	r      *run
	parser *kando.Parser
	tail   *kando.Tail
	// late: the pod was found, and nothing is known of what was read of its log.
	late bool

	uid types.UID
	// at is the time of the last line that was read, and same the number of
	// lines of that very time.
	at   time.Time
	same int
	lost error

	saved time.Time
}

// memory is what another attempt needs.
type memory struct {
	UID     types.UID      `json:"uid"`
	At      time.Time      `json:"at,omitzero"`
	Same    int            `json:"same,omitempty"`
	Outputs map[string]any `json:"outputs,omitempty"`
}

func newReader(r *run) *reader {
	l := &reader{r: r, tail: &kando.Tail{Redact: r.env.Redact}}
	l.parser = &kando.Parser{Line: l.logged}
	return l
}

func (l *reader) newTail() *kando.Tail { return &kando.Tail{Redact: l.r.env.Redact} }

// logged sends a line to the worker's log.
func (l *reader) logged(line []byte) {
	if len(line) >= kando.MaxLine { // cut, and a secret in it perhaps with it
		line = []byte("(a line of more than 4 KiB)")
	}
	l.r.env.Log.Info("pod output", "pod", l.r.name(), "line", string(line))
}

// recall takes up where an earlier attempt was; it returns the pod's UID, or "".
func (l *reader) recall(text string) types.UID {
	var m memory
	if text == "" || json.Unmarshal([]byte(text), &m) != nil {
		return ""
	}
	if l.r.env.Reported {
		return m.UID
	}
	l.uid, l.at, l.same = m.UID, m.At, m.Same
	l.parser.Seed(m.Outputs)
	return m.UID
}

func (l *reader) remember(uid types.UID) {
	l.uid = uid
	l.save()
}

// saveEvery is how often what was read is remembered: a command may print a
// hundred thousand lines a second. What is read twice does no harm.
const saveEvery = 250 * time.Millisecond

func (l *reader) save() {
	l.saved = time.Now()
	b, err := json.Marshal(memory{UID: l.uid, At: l.at, Same: l.same, Outputs: l.parser.Outputs()})
	if err == nil {
		l.r.env.Remember(string(b))
	}
}

// follow reads while the container runs, until the context ends.
func (l *reader) follow(ctx context.Context) {
	for wait := 200 * time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 5*time.Second) {
		err := l.read(ctx, true)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			l.r.env.Log.Debug("the log's stream broke; going on where it was", "pod", l.r.name(), "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// drain reads what is left when the container is over.
func (l *reader) drain(ctx context.Context, pod *corev1.Pod) error {
	if s := status(pod, l.r.task.Output); s == nil || s.State.Terminated == nil && s.State.Running == nil {
		return nil // it never ran: it has no log
	}
	err := cluster.Insist(ctx, l.r.env.Heartbeat, func(ctx context.Context) error {
		err := l.read(ctx, false)
		if err != nil && !errors.Is(err, errLost) && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && !apierrors.IsBadRequest(err) {
			return fmt.Errorf("read the log: %w", err) // broke: again
		}
		if err != nil {
			return fault.New(fault.Permanent, "read the log: %w", err)
		}
		return nil
	})
	if err == nil {
		err = l.lost
	}
	return err
}

// read is one stream of the log, from the last line that was read. Following,
// it ends with the stream.
func (l *reader) read(ctx context.Context, follow bool) error {
	o := &corev1.PodLogOptions{Container: l.r.task.Output, Timestamps: true, Follow: follow}
	resumed := !l.at.IsZero()
	if resumed {
		since := metav1.NewTime(l.at.Truncate(time.Second)) // the API knows whole seconds only
		o.SinceTime = &since
	}
	stream, err := l.r.pods().GetLogs(l.r.pod.Name, o).Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	defer l.save()
	in := bufio.NewReaderSize(stream, 64<<10)
	// An attempt that found the pod knows not what was printed before.
	skip, found := l.same, !resumed && !l.late
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			// A line without an end is whole only when the container is over.
			if err == io.EOF && !follow && len(line) > 0 {
				l.take(ctx, line, &skip, &found)
			}
			if err == io.EOF {
				err = nil
			}
			if err == nil && !follow && !found && resumed {
				// Nothing after it, and itself not there any more.
				l.recover(ctx, time.Time{})
			}
			return err
		}
		l.take(ctx, line, &skip, &found)
	}
}

// take takes one line with its time; those that were read before are skipped.
func (l *reader) take(ctx context.Context, line []byte, skip *int, found *bool) {
	stamp, text, ok := bytes.Cut(line, []byte(" "))
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok || err != nil {
		at, text = l.at, line // not the kubelet's word; take it as it is
	} else if at.Before(l.at) {
		return
	} else if at.Equal(l.at) && *skip > 0 {
		*skip--
		*found = true
		return
	}
	if !*found {
		// The line where the last stream stopped is not in the file any more:
		// the kubelet has put it, and perhaps others after it, into an older one.
		*found = true
		l.recover(ctx, at)
	}
	l.accept(at, text)
}

func (l *reader) accept(at time.Time, text []byte) {
	if at.Equal(l.at) {
		l.same++
	} else {
		l.at, l.same = at, 1
	}
	_, _ = l.tail.Write(text)
	_, _ = l.parser.Write(text)
	if !bytes.HasSuffix(text, []byte("\n")) {
		_, _ = l.parser.Write([]byte("\n"))
	}
	if time.Since(l.saved) > saveEvery {
		l.save()
	}
}
