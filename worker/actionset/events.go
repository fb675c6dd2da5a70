package actionset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/activities/cluster"
	"thaw/activities/cluster/binding"
	"thaw/blueprints"
)

// recorder writes Kubernetes events. Each has a name of its own that is made
// of what it says, so that it is there once, however often and by however many
// workers it is told. An event that cannot be written is let go: it is for
// people, and the status has it all.
type recorder struct {
	on    *cluster.Cluster
	log   *slog.Logger
	queue chan *corev1.Event
}

func newRecorder(on *cluster.Cluster, log *slog.Logger) *recorder {
	return &recorder{on: on, log: log, queue: make(chan *corev1.Event, 1000)}
}

// component is the source of events, as kubectl describe shows it.
const component = "thaw"

// event tells of a change of an ActionSet.
func (r *recorder) event(o *unstructured.Unstructured, c change) {
	r.about(o, "", c)
}

// about tells of a change on any object; which tells apart what would be
// named alike.
func (r *recorder) about(o *unstructured.Unstructured, which string, c change) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s\x00%s", o.GetUID(), which, c.action, c.reason, c.message))
	name := o.GetName()
	if len(name) > 200 {
		name = name[:200]
	}
	kind := corev1.EventTypeNormal
	if c.warning {
		kind = corev1.EventTypeWarning
	}
	now := metav1.Now()
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: name + "." + hex.EncodeToString(sum[:8]), Namespace: o.GetNamespace()},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), UID: o.GetUID(), ResourceVersion: o.GetResourceVersion(),
		},
		Reason: short(c.reason, 128), Message: short(c.message, 1024), Type: kind, Source: corev1.EventSource{Component: component}, ReportingController: component,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	select {
	case r.queue <- ev:
	default:
		r.log.Warn("event dropped: too many wait for the API server", "reason", c.reason, "object", o.GetName())
	}
}

func (r *recorder) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case ev := <-r.queue:
			call, done := context.WithTimeout(ctx, time.Minute)
			err := cluster.Insist(call, nil, func(ctx context.Context) error {
				_, err := r.on.Kube.CoreV1().Events(ev.Namespace).Create(ctx, ev, metav1.CreateOptions{})
				return err
			})
			done()
			if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				r.log.Debug("event not written", "reason", ev.Reason, "object", ev.InvolvedObject.Name, "error", err)
			}
		}
	}
}

// announce says of a blueprint that it is known, or what is wrong with it:
// before the first ActionSet fails by it.
func (b *Bridge) announce(_ context.Context, o *unstructured.Unstructured) {
	if was, _ := b.announced.Swap(o.GetUID(), o.GetResourceVersion()); was == o.GetResourceVersion() {
		return
	}
	text, err := binding.Text(o)
	if err != nil {
		return
	}
	bp, faults := blueprints.Parse("blueprint "+o.GetName(), text)
	if faults.Err() == nil {
		faults = append(faults, blueprints.Lint(bp, b.Catalogue)...)
	}
	sum := sha256.Sum256(text)
	c := change{reason: "Added", message: "Blueprint is known to Thaw", action: -1}
	if err := faults.Err(); err != nil {
		c = change{reason: "Invalid", message: err.Error(), warning: true, action: -1}
	}
	b.events.about(o, hex.EncodeToString(sum[:]), c)
}
