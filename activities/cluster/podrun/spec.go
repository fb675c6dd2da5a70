package podrun

import (
	"encoding/json"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// Args are the arguments of every function that makes a pod.
type Args struct {
	PodOverride    map[string]any    `arg:"podOverride" type:"object" doc:"Parts of the pod's spec, merged into it (strategic merge)"`
	PodAnnotations map[string]string `arg:"podAnnotations" doc:"Annotations of the pod"`
	PodLabels      map[string]string `arg:"podLabels" doc:"Labels of the pod"`
}

// Container is the name of a pod's one container, which overrides name.
const Container = "container"

// Pod makes the pod of a phase as Kanister merges it: the phase's override
// over the spec, the run's over both; labels and annotations of the run, those
// of the phase over them.
func Pod(c *cluster.Cluster, env *function.Env, namespace string, spec corev1.PodSpec, a Args, runOverride map[string]any) (*corev1.Pod, error) {
	if namespace == "" {
		namespace = c.Namespace
	}
	spec.RestartPolicy = corev1.RestartPolicyNever
	for _, override := range []map[string]any{a.PodOverride, runOverride} {
		if len(override) == 0 {
			continue
		}
		var err error
		if spec, err = merged(spec, override); err != nil {
			return nil, fault.New(fault.User, "podOverride: %w", err)
		}
	}
	if spec.RestartPolicy != corev1.RestartPolicyNever {
		return nil, fault.New(fault.User, "podOverride: restartPolicy %s: a command that is started again is no command that ran once; use the phase's retry", spec.RestartPolicy)
	}
	labels, annotations := map[string]string{}, map[string]string{}
	maps.Copy(labels, env.Pod.Labels)
	maps.Copy(labels, a.PodLabels)
	maps.Copy(annotations, env.Pod.Annotations)
	maps.Copy(annotations, a.PodAnnotations)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: labels, Annotations: annotations}, Spec: spec}, nil
}

func merged(spec corev1.PodSpec, override map[string]any) (corev1.PodSpec, error) {
	var out corev1.PodSpec
	base, err := json.Marshal(spec)
	if err != nil {
		return out, err
	}
	patch, err := json.Marshal(override)
	if err != nil {
		return out, err
	}
	both, err := strategicpatch.StrategicMergePatch(base, patch, corev1.PodSpec{})
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(both, &out)
}
