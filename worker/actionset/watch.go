package actionset

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// relist is how long one watch lives: every object is looked at anew
	// after it, whatever the watch said.
	relist = 5 * time.Minute
	// page of a list, which may be long.
	page = 500
)

// watcher tells of the objects of one resource in one namespace: of each that
// is there, comes or changes (seen), and of each that goes (gone, may be nil).
type watcher struct {
	b         *Bridge
	namespace string
	resource  schema.GroupVersionResource
	seen      func(context.Context, *unstructured.Unstructured)
	gone      func(context.Context, *unstructured.Unstructured)
	known     map[types.UID]*unstructured.Unstructured
}

// watch runs a watcher until the context ends. It waits for a resource that
// does not exist yet, for a permission, and for the API server.
func (b *Bridge) watch(ctx context.Context, w watcher) {
	w.b, w.known = b, map[types.UID]*unstructured.Unstructured{}
	log := b.Log.With("resource", w.resource.GroupResource().String(), "namespace", w.namespace)
	wait, told := time.Duration(0), ""
	for ctx.Err() == nil {
		err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, apierrors.IsResourceExpired(err), apierrors.IsGone(err): // as watches end
			wait, told = 0, ""
		case apierrors.IsNotFound(err):
			if told != "no resource" {
				told = "no resource"
				log.Warn("the cluster has no such resource; waiting for it: apply deploy/crds/kanister.yaml, or Kanister's own", "error", err)
			}
		case told != err.Error():
			told = err.Error()
			log.Warn("not watched; trying again", "error", err)
		}
		if !pause(ctx, &wait, 5*time.Second) {
			return
		}
	}
}

// once lists, and watches from there.
func (w *watcher) once(ctx context.Context) error {
	r := w.b.Cluster.Dynamic.Resource(w.resource).Namespace(w.namespace)
	here := map[types.UID]bool{}
	opts := metav1.ListOptions{Limit: page}
	for {
		call, done := context.WithTimeout(ctx, oneCall)
		list, err := r.List(call, opts)
		done()
		if err != nil {
			return err
		}
		for i := range list.Items {
			here[list.Items[i].GetUID()] = true
			w.take(ctx, &list.Items[i])
		}
		opts.ResourceVersion, opts.Continue = list.GetResourceVersion(), list.GetContinue()
		if opts.Continue == "" {
			break
		}
		opts.ResourceVersion = ""
	}
	for uid, o := range w.known {
		if !here[uid] {
			w.drop(ctx, o)
		}
	}
	limit := int64(relist / time.Second)
	events, err := r.Watch(ctx, metav1.ListOptions{ResourceVersion: opts.ResourceVersion, TimeoutSeconds: &limit, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer events.Stop()
	// A server that is stopped in its tracks ends no watch.
	late := time.NewTimer(relist + oneCall)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-late.C:
			return nil
		case ev, open := <-events.ResultChan():
			if !open {
				return nil
			}
			if ev.Type == watch.Error {
				return apierrors.FromObject(ev.Object)
			}
			o, ok := ev.Object.(*unstructured.Unstructured)
			switch {
			case !ok:
			case ev.Type == watch.Deleted:
				w.drop(ctx, o)
			case ev.Type == watch.Added, ev.Type == watch.Modified:
				w.take(ctx, o)
			}
		}
	}
}

func (w *watcher) take(ctx context.Context, o *unstructured.Unstructured) {
	w.known[o.GetUID()] = o
	w.seen(ctx, o)
}

func (w *watcher) drop(ctx context.Context, o *unstructured.Unstructured) {
	delete(w.known, o.GetUID())
	if w.gone != nil {
		w.gone(ctx, o)
	}
}
