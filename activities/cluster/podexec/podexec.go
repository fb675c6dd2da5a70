// Package podexec runs a command in a container of a pod that runs, and knows
// a command that failed from one whose end is not known. Start with Run;
// stream.go has the protocol.
package podexec

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/kando"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

// Rules are the permissions that Find and Run need in the pod's namespace.
var Rules = []catalogue.Rule{
	{Resources: []string{"pods"}, Verbs: []string{"get"}},
	{Resources: []string{"pods/exec"}, Verbs: []string{"create", "get"}},
}

// Worst joins the errors of calls made side by side. Where one's outcome is
// unknown, or one said no, that of all is not "before any effect".
func Worst(errs []error) error {
	joined := errors.Join(errs...)
	if joined == nil {
		return nil
	}
	for _, kind := range []fault.Kind{fault.Unknown, fault.Command} {
		if slices.ContainsFunc(errs, func(err error) bool { return err != nil && fault.Of(err) == kind }) {
			return fault.New(kind, "%w", joined)
		}
	}
	if slices.Contains(errs, nil) {
		return fault.New(fault.Unknown, "%w", joined)
	}
	return joined
}

// Find looks before a command is run that it can be: the pod runs, and has the
// container.
func Find(ctx context.Context, c *cluster.Cluster, env *function.Env, w Where) (Where, error) {
	var pod *corev1.Pod
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) (err error) {
		pod, err = c.Kube.CoreV1().Pods(w.Namespace).Get(ctx, w.Pod, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return w, fmt.Errorf("pod %s: %w", w, err)
	}
	if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		state := string(pod.Status.Phase)
		if pod.DeletionTimestamp != nil {
			state = "Terminating"
		}
		return w, fault.New(fault.User, "pod %s is %s; no command can run in it", w, state)
	}
	var names []string
	for i := range pod.Spec.Containers {
		names = append(names, pod.Spec.Containers[i].Name)
	}
	if w.Container == "" {
		if w.Container = pod.Annotations["kubectl.kubernetes.io/default-container"]; w.Container == "" && len(names) > 0 {
			w.Container = names[0]
		}
	}
	if !slices.Contains(names, w.Container) {
		return w, fault.New(fault.User, "pod %s/%s has no container %q; it has %s", w.Namespace, w.Pod, w.Container, strings.Join(names, ", "))
	}
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.Name == w.Container && s.State.Running == nil {
			why := "not running"
			if s.State.Waiting != nil {
				why = s.State.Waiting.Reason
			}
			return w, fault.New(fault.Transient, "container %s of pod %s/%s is %s", w.Container, w.Namespace, w.Pod, why)
		}
	}
	return w, nil
}

// Run runs a command, and reads its outputs. Errors: fault.Command where it
// said no, with its exit code (a *cluster.ExitError) and its last words; those of
// Stream.
func Run(ctx context.Context, c *cluster.Cluster, env *function.Env, w Where, command Command) (function.Outputs, error) {
	log := env.Log.With("pod", w.Namespace+"/"+w.Pod, "container", w.Container)
	line := func(l []byte) {
		if len(l) >= kando.MaxLine { // cut, and a secret in it perhaps with it
			l = []byte("(a line of more than 4 KiB)")
		}
		log.Info("command output", "line", string(l))
	}
	out, errs := &kando.Parser{Line: line}, &kando.Parser{Line: line}
	tail := &kando.Tail{Redact: env.Redact}
	err := Stream(ctx, c, w, command, io.MultiWriter(out, tail), io.MultiWriter(errs, tail), env.Heartbeat)
	_, _ = errs.Close()
	var exit *cluster.ExitError
	if errors.As(err, &exit) {
		words := tail.String()
		if words == "" {
			words = "it printed nothing"
		}
		return nil, fault.New(fault.Command, "%s: %w: %s", w, exit, words)
	}
	if err != nil {
		if words := tail.String(); words != "" {
			return nil, fmt.Errorf("%w: its last words: %s", err, words)
		}
		return nil, err
	}
	values, err := out.Close()
	if err != nil {
		return nil, fault.New(fault.Command, "%s: the command ran, but its outputs cannot be read: %w", w, err)
	}
	return values, nil
}
