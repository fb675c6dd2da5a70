package cluster

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What Thaw makes in a cluster carries these marks: a person sees whose it is,
// a second attempt of a call finds what the first one made, and what a run left
// behind can be listed by its label.
const (
	// LabelManaged is on every object that Thaw made; its value is Managed,
	// unless the object took another's label over from what it restores.
	LabelManaged = "app.kubernetes.io/managed-by"
	Managed      = "thaw"
	// AnnotationCall is the key of the call that made the object (function.Env.Key).
	AnnotationCall = "thaw.dev/call"
	// AnnotationRun is the workflow id of the run that made it.
	AnnotationRun = "thaw.dev/run"
	// AnnotationRunID is that run's own id (plan.Run.Original): a workflow id
	// may be used again, and what an earlier run made is not a later one's.
	AnnotationRunID = "thaw.dev/run-id"
	// AnnotationOwner is the Temporal that knows the run, as CLUSTER-ID/NAMESPACE:
	// a worker sweeps only what its own Temporal can speak for.
	AnnotationOwner = "thaw.dev/owner"
)

// Mark puts Thaw's marks on an object that is about to be made.
func Mark(o metav1.Object, call, run, owner string) {
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	if labels[LabelManaged] == "" {
		labels[LabelManaged] = Managed
	}
	o.SetLabels(labels)
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[AnnotationCall] = call
	if run != "" {
		annotations[AnnotationRun] = run
	}
	if owner != "" {
		annotations[AnnotationOwner] = owner
	}
	o.SetAnnotations(annotations)
}

// MadeBy reports whether the call of that key made the object.
func MadeBy(o metav1.Object, call string) bool {
	return call != "" && o.GetAnnotations()[AnnotationCall] == call
}
