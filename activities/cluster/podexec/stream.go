package podexec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	transport "k8s.io/client-go/transport/websocket"
	"k8s.io/streaming/pkg/httpstream"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
)

// Why not client-go's remotecommand: it takes a stream that ended without a
// word for a command that ended well
// (github.com/actions/runner-container-hooks/issues/228). A command is over
// when the kubelet says how it ended, and only then.

// The channels of the protocol v5.channel.k8s.io, which can say that the
// standard input is over, and v4's, which cannot.
const (
	channelStdin  = 0
	channelStdout = 1
	channelStderr = 2
	channelStatus = 3
	channelClose  = 255
)

const (
	v4 = "v4.channel.k8s.io"
	v5 = "v5.channel.k8s.io"
)

const (
	// pingEvery keeps proxies from closing a quiet stream.
	pingEvery = 5 * time.Second
	// silence is how long a connection may give no sign of life.
	silence = 30 * time.Second
	// startTries bounds how long a stream that is refused is asked for again.
	startTries = 30 * time.Second
	// dialLimit bounds the opening of the stream.
	dialLimit = 20 * time.Second
)

// Where names a container.
type Where struct{ Namespace, Pod, Container string }

func (w Where) String() string {
	if w.Container == "" {
		return w.Namespace + "/" + w.Pod
	}
	return w.Namespace + "/" + w.Pod + ", container " + w.Container
}

// Command to run.
type Command struct {
	Args []string
	// Stdin is what it reads; nil is nothing.
	Stdin []byte
}

// Stream runs a command in a container. Errors: *cluster.ExitError where it ended with
// another code than 0; fault.Transient where it was not started; fault.Unknown
// where the stream broke, or the context ended, before the kubelet said how the
// command ended: it may still run.
func Stream(ctx context.Context, c *cluster.Cluster, w Where, command Command, stdout, stderr io.Writer, note func(string)) error {
	conn, err := dialUntil(ctx, c, w, command, note)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	quiet := keepAlive(conn)
	defer quiet()
	if len(command.Stdin) > 0 {
		go func() { _ = give(conn, command.Stdin) }() // where it cannot, the reader learns it too
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		_, message, err := conn.ReadMessage()
		if ctx.Err() != nil {
			return fault.New(fault.Unknown, "%s: ended before the command did, which may still run there: %w", w, context.Cause(ctx))
		}
		if err != nil {
			return fault.New(fault.Unknown, "%s: the stream broke before the command's end was known; it may still run there: %w", w, err)
		}
		if len(message) == 0 {
			continue
		}
		switch message[0] {
		case channelStdout:
			_, _ = stdout.Write(message[1:])
		case channelStderr:
			_, _ = stderr.Write(message[1:])
		case channelStatus:
			if len(message) > 1 {
				return ended(w, message[1:])
			}
		}
	}
}

// dialUntil opens the stream. An API server that is away is waited for; one
// that cannot open it is asked again for a while, since a kubelet that was
// restarted, or a proxy, answers so (github.com/vmware-tanzu/velero/issues/2826).
func dialUntil(ctx context.Context, c *cluster.Cluster, w Where, command Command, note func(string)) (*websocket.Conn, error) {
	var refused time.Time
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		conn, err := dial(ctx, c, w, command)
		if err == nil || fault.Of(err) != fault.Transient {
			return conn, err
		}
		var status apierrors.APIStatus
		switch answered := errors.As(err, &status); {
		case !answered:
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > startTries:
			return nil, err
		}
		note(fmt.Sprintf("waiting to start the command: %v", err))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func dial(ctx context.Context, c *cluster.Cluster, w Where, command Command) (*websocket.Conn, error) {
	o := &corev1.PodExecOptions{Container: w.Container, Command: command.Args, Stdin: len(command.Stdin) > 0, Stdout: true, Stderr: true}
	protocols := []string{v5, v4}
	if o.Stdin { // v4 would leave the command reading for ever
		protocols = []string{v5}
	}
	u := c.Kube.CoreV1().RESTClient().Get().Resource("pods").Namespace(w.Namespace).Name(w.Pod).SubResource("exec").VersionedParams(o, scheme.ParameterCodec).URL()
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	conn, err := open(ctx, c, u, protocols)
	if err == nil {
		return conn, nil
	}
	// The command was not started: the upgrade is answered before it is.
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code < 500 && status.Status().Code != http.StatusTooManyRequests {
		if apierrors.IsForbidden(err) { // the server does not always say what it misses
			err = fmt.Errorf("%w (a worker needs get and create of pods/exec)", err)
		}
		return nil, fault.New(fault.User, "exec in %s: %w", w, err)
	}
	return nil, fault.New(fault.Transient, "exec in %s: %w", w, err)
}

func open(ctx context.Context, c *cluster.Cluster, u *url.URL, protocols []string) (*websocket.Conn, error) {
	rt, holder, err := transport.RoundTripperFor(c.Rest)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	conn, err := transport.Negotiate(rt, holder, req, protocols...)
	var answer *httpstream.UpgradeFailureError
	if errors.As(err, &answer) { // hides what the server said, and whether it did
		return nil, answer.Cause
	}
	return conn, err
}

// give writes the standard input, and says that it is over.
func give(conn *websocket.Conn, stdin []byte) error {
	const piece = 32 << 10
	for len(stdin) > 0 {
		n := min(len(stdin), piece)
		if err := conn.WriteMessage(websocket.BinaryMessage, append([]byte{channelStdin}, stdin[:n]...)); err != nil {
			return err
		}
		stdin = stdin[n:]
	}
	return conn.WriteMessage(websocket.BinaryMessage, []byte{channelClose, channelStdin})
}

// keepAlive pings, and takes each pong for a sign of life.
func keepAlive(conn *websocket.Conn) (stop func()) {
	conn.SetPongHandler(func(string) error { return conn.SetReadDeadline(time.Now().Add(silence)) })
	done := make(chan struct{})
	var once sync.Once
	go func() {
		t := time.NewTicker(pingEvery)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				if conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingEvery)) != nil {
					return // the reader learns it too
				}
			}
		}
	}()
	return func() { once.Do(func() { close(done) }) }
}

// ended reads the kubelet's word on how the command ended.
func ended(w Where, message []byte) error {
	var s metav1.Status
	if err := json.Unmarshal(message, &s); err != nil {
		return fault.New(fault.Unknown, "%s: the kubelet's word on the command's end is no status: %w", w, err)
	}
	if s.Status == metav1.StatusSuccess {
		return nil
	}
	if s.Reason == "NonZeroExitCode" && s.Details != nil {
		for _, cause := range s.Details.Causes {
			if code, err := strconv.Atoi(cause.Message); cause.Type == "ExitCode" && err == nil {
				return &cluster.ExitError{Code: code}
			}
		}
	}
	// The runtime could not start it (no such file, no such container), or lost it.
	return fault.New(fault.Command, "%s: %s", w, s.Message)
}
