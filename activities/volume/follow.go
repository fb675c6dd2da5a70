package volume

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"thaw/activities/cluster"
)

// event is the newest version of an object, or its last one.
type event[T any] struct {
	object T
	gone   bool
}

// source is some resource, and which of its objects matter.
type source[T metav1.Object] struct {
	list  func(ctx context.Context, opts metav1.ListOptions) (items []T, version string, err error)
	watch func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
	mine  func(T) bool
}

// follow returns the changes of objects from now on: when it has returned, the
// watch is open, and what is made afterwards is not missed. What exists
// already comes first, if existing is set; without it nothing needs to be
// listed, in a cluster that may have thousands. A watch that ends is opened
// again, until the context ends.
func follow[T metav1.Object](ctx context.Context, s source[T], existing bool, note func(string)) (<-chan event[T], error) {
	out := make(chan event[T], 64)
	opts := metav1.ListOptions{}
	if !existing {
		opts.Limit = 1 // for the resource version only
	}
	items, w, err := s.open(ctx, opts, note)
	if err != nil {
		return nil, err
	}
	if !existing {
		items = nil
	}
	go func() {
		for {
			if !s.forward(ctx, items, w, out) {
				return
			}
			select { // at a pace that a server in trouble bears
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			if items, w, err = s.open(ctx, metav1.ListOptions{}, note); err != nil {
				if ctx.Err() == nil && note != nil {
					note("watching: " + err.Error())
				}
				items, w = nil, watch.NewEmptyWatch()
			}
		}
	}()
	return out, nil
}

// open lists, and opens a watch from there.
func (s source[T]) open(ctx context.Context, opts metav1.ListOptions, note func(string)) (items []T, w watch.Interface, err error) {
	for {
		var version string
		err := cluster.Insist(ctx, note, func(ctx context.Context) (err error) {
			items, version, err = s.list(ctx, opts)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		// Its context is that of the whole watch, not of one try.
		w, err = s.watch(ctx, metav1.ListOptions{ResourceVersion: version, AllowWatchBookmarks: true})
		switch {
		case err == nil:
			return items, w, nil
		case ctx.Err() == nil && (cluster.Unreachable(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)):
			continue
		}
		return nil, nil, cluster.Classify(err)
	}
}

// forward hands over what one watch says. It is false when nobody listens.
func (s source[T]) forward(ctx context.Context, items []T, w watch.Interface, out chan<- event[T]) bool {
	defer w.Stop()
	send := func(o T, gone bool) bool {
		if !s.mine(o) {
			return true
		}
		select {
		case out <- event[T]{o, gone}:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, o := range items {
		if !send(o, false) {
			return false
		}
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case ev, open := <-w.ResultChan():
			o, ok := ev.Object.(T)
			if !open || ev.Type == watch.Error || !ok {
				return ctx.Err() == nil
			}
			if ev.Type == watch.Bookmark {
				continue
			}
			if !send(o, ev.Type == watch.Deleted) {
				return false
			}
		}
	}
}

// pointers are the addresses of a list's items.
func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}
