package cluster

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"thaw/blueprints/fault"
)

// Watched is what is waited for: objects of one resource, in one namespace
// ("" for all, or for what has none), by labels or by name.
type Watched struct {
	Resource  schema.GroupVersionResource
	Namespace string
	Name      string // one object of that name
	Labels    string // a label selector
	// Note, where not nil, hears what is missing.
	Note func(string)
}

// Until watches until met says that the objects are as wanted, or that they
// never will be. T is the objects' type. met gets all of them, and says what
// is missing. An API server that goes away meanwhile is waited for. Errors:
// those of met; fault.Command where the context's deadline comes first, with
// what was missing; what Classify says of a refusal.
func Until[T any](ctx context.Context, c *Cluster, w Watched, met func(items []T) (missing string, err error)) error {
	opts := metav1.ListOptions{LabelSelector: w.Labels}
	if w.Name != "" {
		opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, w.Name).String()
	}
	r := c.Dynamic.Resource(w.Resource).Namespace(w.Namespace)
	missing := "nothing is known of it yet"
	look := func(set map[types.UID]T) (done bool, err error) {
		items := make([]T, 0, len(set))
		for _, o := range set {
			items = append(items, o)
		}
		was := missing
		if missing, err = met(items); err != nil || missing == "" {
			return true, err
		}
		if missing != was && w.Note != nil {
			w.Note("waiting: " + missing)
		}
		return false, nil
	}
	for {
		set := map[types.UID]T{}
		var list *unstructured.UnstructuredList
		err := Insist(ctx, w.Note, func(ctx context.Context) (err error) {
			list, err = r.List(ctx, opts)
			return err
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err != nil {
			return unmet(ctx, missing)
		}
		for i := range list.Items {
			if err := put(set, &list.Items[i]); err != nil {
				return err
			}
		}
		if done, err := look(set); done {
			return err
		}
		next := opts
		next.ResourceVersion, next.AllowWatchBookmarks = list.GetResourceVersion(), true
		if done, err := follow(ctx, func() (watch.Interface, error) { return r.Watch(ctx, next) }, set, look); done {
			return err
		}
		// The watch ended, as they do. Look anew, at a pace that a server in trouble bears.
		select {
		case <-ctx.Done():
			return unmet(ctx, missing)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// follow is one watch; it is not done where the watch only ended.
func follow[T any](ctx context.Context, open func() (watch.Interface, error), set map[types.UID]T, look func(map[types.UID]T) (bool, error)) (done bool, err error) {
	events, err := open()
	if err != nil {
		if ctx.Err() != nil || Unreachable(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return false, nil
		}
		return true, Classify(err)
	}
	defer events.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case ev, open := <-events.ResultChan():
			o, ok := ev.Object.(*unstructured.Unstructured)
			if !open || !ok || ev.Type == watch.Error {
				return false, nil
			}
			switch ev.Type {
			case watch.Deleted:
				delete(set, o.GetUID())
			case watch.Added, watch.Modified:
				if err := put(set, o); err != nil {
					return true, err
				}
			default:
				continue
			}
			if done, err := look(set); done {
				return true, err
			}
		}
	}
}

func put[T any](set map[types.UID]T, o *unstructured.Unstructured) error {
	var v T
	if u, ok := any(&v).(*unstructured.Unstructured); ok {
		*u = *o
	} else if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &v); err != nil {
		return fault.New(fault.Permanent, "%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	set[o.GetUID()] = v
	return nil
}

func unmet(ctx context.Context, missing string) error {
	cause := context.Cause(ctx)
	kind := fault.Transient
	if ctx.Err() == context.DeadlineExceeded {
		kind = fault.Command
	}
	return fault.New(kind, "%s: %w", missing, fmt.Errorf("waited in vain: %w", cause))
}
