package actionset

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
)

// Config says whether a worker serves ActionSets, and of which namespaces.
type Config struct {
	Enabled bool `yaml:"enabled"`
	// Namespaces whose ActionSets are served; "*" is all of them. Default: the
	// worker's own, as Kanister's controller has it.
	Namespaces []string `yaml:"namespaces"`
}

// Rules are what a worker must be allowed to serve ActionSets, in each of their
// namespaces, beside what the actions themselves need. Where the ActionSets'
// definition has a status subresource (Kanister's has none): update of
// actionsets/status too.
var Rules = []catalogue.Rule{
	{Group: group.Group, Resources: []string{actionSets.Resource}, Verbs: []string{"get", "list", "watch", "update"}},
	{Group: group.Group, Resources: []string{blueprint.Resource}, Verbs: []string{"get", "list", "watch"}},
	{Group: ownBlueprint.Group, Resources: []string{ownBlueprint.Resource}, Verbs: []string{"get"}},
	{Group: "", Resources: []string{"events"}, Verbs: []string{"create"}},
}

// Bridge serves the ActionSets of a cluster. Any number of workers may serve
// the same ones: all that they do is idempotent.
type Bridge struct {
	Config
	Cluster   *cluster.Cluster
	Client    client.Client
	TaskQueue string // of the runs: the worker's own
	Catalogue catalogue.Catalogue
	Log       *slog.Logger

	mu       sync.Mutex
	followed map[types.UID]*follower
	work     sync.WaitGroup
	events   *recorder
	// announced blueprints: uid to resource version.
	announced sync.Map
}

// follower is what follows one ActionSet.
type follower struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

// errGone ends the following of an ActionSet that was deleted.
var errGone = errors.New("the ActionSet was deleted")

// Run serves until the context ends. It waits for whatever is not there yet:
// the API server, the resources, the permissions, Temporal.
func (b *Bridge) Run(ctx context.Context) {
	b.followed = map[types.UID]*follower{}
	b.events = newRecorder(b.Cluster, b.Log)
	b.work.Go(func() { b.events.run(ctx) })
	for _, ns := range b.scope() {
		b.work.Go(func() { b.watch(ctx, watcher{namespace: ns, resource: actionSets, seen: b.see, gone: b.gone}) })
		b.work.Go(func() { b.watch(ctx, watcher{namespace: ns, resource: blueprint, seen: b.announce}) })
	}
	b.work.Go(func() { b.sweep(ctx) })
	<-ctx.Done()
	b.work.Wait()
}

// scope is the namespaces that are watched; "" is all.
func (b *Bridge) scope() []string {
	if len(b.Namespaces) == 0 {
		return []string{b.Cluster.Namespace}
	}
	seen := map[string]bool{}
	var all []string
	for _, ns := range b.Namespaces {
		if ns == "*" {
			return []string{metav1.NamespaceAll}
		}
		if !seen[ns] {
			seen[ns], all = true, append(all, ns)
		}
	}
	return all
}

// see takes up an ActionSet that is not over: one that is pending is started,
// one that is running was started by a worker that is no more, or by another.
func (b *Bridge) see(ctx context.Context, o *unstructured.Unstructured) {
	if o.GetDeletionTimestamp() != nil { // a finalizer of others holds it
		b.gone(ctx, o)
		return
	}
	state, _, _ := unstructured.NestedString(o.Object, "status", "state")
	if over(state) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.followed[o.GetUID()] != nil {
		return
	}
	own, stop := context.WithCancelCause(ctx)
	f := &follower{stop: stop, done: make(chan struct{})}
	b.followed[o.GetUID()] = f
	b.work.Go(func() {
		defer func() {
			stop(nil)
			close(f.done)
			b.mu.Lock()
			delete(b.followed, o.GetUID())
			b.mu.Unlock()
		}()
		b.follow(own, key{o.GetNamespace(), o.GetName(), o.GetUID()})
	})
}

// gone cancels the runs of an ActionSet that was deleted: its users delete to
// stop. The runs thaw and clean up before they end.
func (b *Bridge) gone(ctx context.Context, o *unstructured.Unstructured) {
	state, _, _ := unstructured.NestedString(o.Object, "status", "state")
	b.mu.Lock()
	f := b.followed[o.GetUID()]
	b.mu.Unlock()
	if f == nil && over(state) {
		return
	}
	actions, _, _ := unstructured.NestedSlice(o.Object, "spec", "actions")
	b.work.Go(func() {
		if f != nil {
			// First, so that nothing is started after it was cancelled.
			f.stop(errGone)
			<-f.done
		}
		for i := range actions {
			b.cancel(ctx, id(o.GetNamespace(), o.GetName(), string(o.GetUID()), i), errGone.Error())
		}
	})
}

// pause waits, longer each time; false where the context ended.
func pause(ctx context.Context, d *time.Duration, most time.Duration) bool {
	*d = min(max(2**d, 100*time.Millisecond), most)
	return sleep(ctx, *d)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
