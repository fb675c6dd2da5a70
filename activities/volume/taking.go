package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const (
	// inWindow is how long a failed cut may take, while the database is still
	// frozen, to delete what it made. It goes on with that after the thaw.
	inWindow = 100 * time.Millisecond
	// afterThaw is how long it goes on: the report of the freeze waits for it.
	afterThaw = 5 * time.Second
	// afterwards is how long it may take where nothing is frozen.
	afterwards = time.Minute
)

// cut is the cut of some volumes in the making. Its watches are open from
// listen to release.
type cut struct {
	c         *cluster.Cluster
	env       *function.Env
	namespace string
	labels    map[string]string
	parts     []*part
	group     *group // nil: a snapshot for each

	snapshots <-chan event[*snapshotv1.VolumeSnapshot]
	contents  <-chan event[*snapshotv1.VolumeSnapshotContent]
	stop      context.CancelFunc
	clearing  sync.WaitGroup
}

// listen opens the watches. What an earlier attempt asked to be deleted must
// be gone first: it has the names that this one will use.
func (t *cut) listen(ctx context.Context) error {
	own, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.stop = stop
	err := t.open(ctx, own)
	if err != nil {
		stop()
	}
	return err
}

func (t *cut) open(ctx, own context.Context) error {
	if t.group != nil {
		return t.group.open(ctx, own, t)
	}
	names := map[string]*part{}
	for _, p := range t.parts {
		names[p.Snapshot] = p
	}
	list, err := get(ctx, t.env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotList, error) {
		return t.c.Snapshots.SnapshotV1().VolumeSnapshots(t.namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return err
	}
	existing := false
	for _, s := range list.Items {
		if names[s.Name] == nil {
			continue
		}
		if !cluster.MadeBy(&s, t.env.Key) {
			return another("VolumeSnapshot", types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, s.Annotations)
		}
		existing = true
		deleted := s.DeletionTimestamp != nil
		if t.env.Reported && !deleted { // the attempt failed, and could not delete it
			deleted = true
			if _, err := dismiss(ctx, t.c, t.env, s.Namespace, s.Name, nil); err != nil {
				return fmt.Errorf("delete what a former attempt left: %w", err)
			}
		}
		if deleted {
			if err := gone(ctx, t.c, t.env, s.Namespace, s.Name, s.UID); err != nil {
				return fmt.Errorf("a former attempt of it is being deleted: %w", err)
			}
		}
	}
	t.snapshots, err = follow(own, source[*snapshotv1.VolumeSnapshot]{
		list: func(ctx context.Context, o metav1.ListOptions) ([]*snapshotv1.VolumeSnapshot, string, error) {
			l, err := t.c.Snapshots.SnapshotV1().VolumeSnapshots(t.namespace).List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(l.Items), l.ResourceVersion, nil
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return t.c.Snapshots.SnapshotV1().VolumeSnapshots(t.namespace).Watch(ctx, o)
		},
		mine: func(s *snapshotv1.VolumeSnapshot) bool { return names[s.Name] != nil },
	}, existing, t.env.Heartbeat)
	if err != nil {
		return err
	}
	api := t.c.Snapshots.SnapshotV1().VolumeSnapshotContents()
	t.contents, err = follow(own, source[*snapshotv1.VolumeSnapshotContent]{
		list: func(ctx context.Context, o metav1.ListOptions) ([]*snapshotv1.VolumeSnapshotContent, string, error) {
			l, err := api.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(l.Items), l.ResourceVersion, nil
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return api.Watch(ctx, o) },
		mine: func(s *snapshotv1.VolumeSnapshotContent) bool {
			ref := s.Spec.VolumeSnapshotRef
			return ref.Namespace == t.namespace && names[ref.Name] != nil
		},
	}, existing, t.env.Heartbeat)
	return err
}

// run cuts. Errors: of what failed, with its claim; what could not be taken
// back by then is named.
func (t *cut) run(ctx context.Context) error {
	take := t.each
	if t.group != nil {
		take = t.group.take
	}
	if err := take(ctx, t); err != nil {
		return t.undo(ctx, err)
	}
	return nil
}

// undo takes a cut back, and returns the error that it was given, with what is
// left. Where only the worker stops, another one goes on with what is there.
func (t *cut) undo(ctx context.Context, err error) error {
	if t.env.Token == "" && t.env.Stopping != nil && t.env.Stopping() {
		return err
	}
	if left := t.takeBack(ctx); len(left) > 0 {
		err = fmt.Errorf("%w; not gone yet: %s", err, strings.Join(left, ", "))
	}
	return err
}

// made is the outcome of one creation.
type made struct {
	part     *part
	snapshot *snapshotv1.VolumeSnapshot
	err      error
}

// each makes a snapshot for each volume, and waits until all are cut.
func (t *cut) each(ctx context.Context, _ *cut) error {
	creating := make(chan made, len(t.parts))
	for _, p := range t.parts {
		p.uid, p.last = "", "" // of a first run of this act, which was taken back
		go func() {
			s, err := t.create(ctx, p)
			creating <- made{p, s, err}
		}()
	}
	byName := map[string]*part{}
	waiting := map[*part]bool{}
	early := map[*part]*snapshotv1.VolumeSnapshotContent{} // seen before the creation's own answer
	for _, p := range t.parts {
		byName[p.Snapshot], waiting[p] = p, true
	}
	var errs []error
	fail := func(p *part, err error) {
		if waiting[p] {
			errs = append(errs, fmt.Errorf("pvc %s/%s: %w", t.namespace, p.PVC, err))
			delete(waiting, p)
		}
	}
	content := func(p *part, s *snapshotv1.VolumeSnapshotContent) {
		if string(s.Spec.VolumeSnapshotRef.UID) != p.uid {
			return // of an earlier snapshot of that name
		}
		done, err := p.learn(s)
		switch {
		case err != nil:
			fail(p, err)
		case done:
			delete(waiting, p)
		}
	}
	for open := len(t.parts); open > 0 || len(waiting) > 0; {
		if open == 0 && len(errs) > 0 {
			break // all siblings have answered: nothing is made behind our back
		}
		select {
		case m := <-creating:
			open--
			if m.err != nil {
				fail(m.part, m.err)
				continue
			}
			m.part.uid = string(m.snapshot.UID)
			if s := early[m.part]; s != nil {
				content(m.part, s)
			}
		case ev := <-t.contents:
			p := byName[ev.object.Spec.VolumeSnapshotRef.Name]
			switch {
			case ev.gone:
			case p.uid == "":
				early[p] = ev.object
			default:
				content(p, ev.object)
			}
		case ev := <-t.snapshots:
			p := byName[ev.object.Name]
			if string(ev.object.UID) != p.uid {
				continue
			}
			if ev.gone || ev.object.DeletionTimestamp != nil {
				fail(p, fault.New(fault.Permanent, "somebody deleted its snapshot %s", p.Snapshot))
				continue
			}
			if ev.object.Status != nil {
				if err := p.hear(ev.object.Status.Error); err != nil {
					fail(p, err)
				}
			}
		case <-ctx.Done():
			for ; open > 0; open-- { // they have the same context
				<-creating
			}
			return t.late(ctx, waiting)
		}
	}
	return together(errs)
}

// create makes the snapshot of one volume, or finds that of another attempt.
func (t *cut) create(ctx context.Context, p *part) (*snapshotv1.VolumeSnapshot, error) {
	s := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Name: p.Snapshot, Namespace: t.namespace, Labels: maps.Clone(t.labels)},
		Spec: snapshotv1.VolumeSnapshotSpec{
			Source:                  snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &p.PVC},
			VolumeSnapshotClassName: &p.class.name,
		},
	}
	mark(s, t.env)
	return ensure(ctx, t.c, t.env, s)
}

// ensure creates a snapshot, or finds the one that another attempt of the
// call created.
func ensure(ctx context.Context, c *cluster.Cluster, env *function.Env, s *snapshotv1.VolumeSnapshot) (*snapshotv1.VolumeSnapshot, error) {
	api := c.Snapshots.SnapshotV1().VolumeSnapshots(s.Namespace)
	at := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	made, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshot, error) {
		return api.Create(ctx, s, metav1.CreateOptions{})
	})
	if !apierrors.IsAlreadyExists(err) {
		return made, err
	}
	had, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshot, error) {
		return api.Get(ctx, s.Name, metav1.GetOptions{})
	})
	switch {
	case err != nil:
		return nil, err
	case !cluster.MadeBy(had, env.Key):
		return nil, another("VolumeSnapshot", at, had.Annotations)
	case had.DeletionTimestamp != nil:
		return nil, fault.New(fault.Transient, "VolumeSnapshot %s of a former attempt is still being deleted", at)
	}
	return had, nil
}

// learn takes what a content says of the cut.
func (p *part) learn(s *snapshotv1.VolumeSnapshotContent) (done bool, err error) {
	if s.Status == nil {
		return false, nil
	}
	p.Content = s.Name
	if s.Status.SnapshotHandle != nil && s.Status.CreationTime != nil {
		p.Handle, p.cut = *s.Status.SnapshotHandle, time.Unix(0, *s.Status.CreationTime)
		if n := deref(s.Status.RestoreSize); n > 0 {
			p.RestoreSize = bytes(n)
		}
		return true, nil
	}
	return false, p.hear(s.Status.Error)
}

// hear takes what a status says went wrong: an error where that is the end.
func (p *part) hear(e *snapshotv1.VolumeSnapshotError) error {
	message, final := said(e)
	if message != "" {
		p.last = message
	}
	if final {
		return fault.New(fault.Permanent, "driver %s: %s", p.Driver, message)
	}
	return nil
}

// late says what was not cut when the time was over.
func (t *cut) late(ctx context.Context, waiting map[*part]bool) error {
	kind := fault.Transient
	if ctx.Err() == context.DeadlineExceeded {
		kind = fault.Command
	}
	var parts []string
	for p := range waiting {
		why := "not cut yet"
		if p.last != "" {
			why += fmt.Sprintf(" (driver %s: %s)", p.Driver, p.last)
		}
		parts = append(parts, fmt.Sprintf("pvc %s/%s: %s", t.namespace, p.PVC, why))
	}
	slices.Sort(parts)
	return fault.New(kind, "%s: %w", strings.Join(parts, "; "), context.Cause(ctx))
}

// leftover is something that a failed cut made, and how it is to be deleted.
type leftover struct {
	name string
	ask  func(ctx context.Context) (types.UID, error) // "": there is none
	gone func(ctx context.Context, uid types.UID) error
}

func (t *cut) leftovers() []leftover {
	if g := t.group; g != nil {
		return []leftover{{
			fmt.Sprintf("VolumeGroupSnapshot %s/%s", t.namespace, g.name),
			func(ctx context.Context) (types.UID, error) { return g.remove(ctx, t) },
			func(ctx context.Context, uid types.UID) error {
				return g.vanish(ctx, t.env, t.namespace, g.name, uid)
			},
		}}
	}
	var all []leftover
	for _, p := range t.parts {
		all = append(all, leftover{
			fmt.Sprintf("VolumeSnapshot %s", p.snapshot()),
			func(ctx context.Context) (types.UID, error) {
				return dismiss(ctx, t.c, t.env, p.Namespace, p.Snapshot, func(o metav1.Object) bool { return cluster.MadeBy(o, t.env.Key) })
			},
			func(ctx context.Context, uid types.UID) error {
				return vanish(ctx, t.c, t.env, p.Namespace, p.Snapshot, uid)
			},
		})
	}
	return all
}

// takeBack deletes what a failed cut made, and returns what is not known to be
// gone when it has to return. Where nothing is frozen it waits for that; in a
// freeze it asks for the deletion, and goes on until release: a database is
// not kept frozen for it.
func (t *cut) takeBack(ctx context.Context) (left []string) {
	patience, limit := afterwards, afterwards
	if t.env.Token != "" {
		patience, limit = inWindow, afterThaw
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	var mu sync.Mutex
	open := map[string]string{}
	say := func(name, what string) {
		mu.Lock()
		defer mu.Unlock()
		if open[name] = what; what == "" {
			delete(open, name)
		}
	}
	var all sync.WaitGroup
	for _, l := range t.leftovers() {
		say(l.name, "its deletion is not confirmed")
		all.Go(func() {
			uid, err := l.ask(own)
			if err == nil && uid != "" {
				say(l.name, "being deleted")
				err = l.gone(own, uid)
			}
			if err == nil {
				say(l.name, "")
				return
			}
			say(l.name, err.Error())
			if t.env.Log != nil {
				t.env.Log.Error("a failed cut left something behind", "what", l.name, "error", err)
			}
		})
	}
	done := make(chan struct{})
	t.clearing.Go(func() {
		all.Wait()
		cancel()
		close(done)
	})
	select {
	case <-done:
	case <-time.After(patience):
	}
	mu.Lock()
	defer mu.Unlock()
	for name, why := range open {
		left = append(left, fmt.Sprintf("%s (%s)", name, why))
	}
	slices.Sort(left)
	return left
}

// release waits for the end of what takeBack began, and closes the watches. In
// a freeze it runs after the thaw.
func (t *cut) release() {
	t.clearing.Wait()
	if t.group != nil {
		t.group.release(t)
	}
	t.stop()
}

// together is several errors as one, of the kind that allows the least: what
// must not be retried for one must not be for all.
func together(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	kind := fault.Of(errs[0])
	var texts []string
	for _, err := range errs {
		if k := fault.Of(err); k != fault.Transient {
			kind = k
		}
		texts = append(texts, err.Error())
	}
	slices.Sort(texts)
	return fault.New(kind, "%s", strings.Join(texts, "; "))
}
