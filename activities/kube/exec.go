package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/kando"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type execArgs struct {
	Namespace string   `arg:"namespace,required" doc:"Namespace of the pod"`
	Pod       string   `arg:"pod,required" doc:"Name of the pod"`
	Container string   `arg:"container" doc:"Container of the pod; the one that its annotation kubectl.kubernetes.io/default-container names, else its first, where there is none"`
	Command   []string `arg:"command,required" doc:"Command and arguments; what it prints with kando output is the phase's output"`
}

var execRules = []catalogue.Rule{
	{Resources: []string{"pods"}, Verbs: []string{"get"}},
	{Resources: []string{"pods/exec"}, Verbs: []string{"create", "get"}},
}

// kubeExec is KubeExec. It is for short commands: a stream through the API
// server breaks with it, and the command's end is then unknown. Long work
// belongs into a KubeTask.
func kubeExec(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "KubeExec", Family: family, Summary: "Runs a command in a container of a running pod.",
		OpenOutputs: true, Timeout: podCall, Rules: execRules,
	}, func(ctx context.Context, env *function.Env, a execArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		w, err := find(ctx, c, env, where{a.Namespace, a.Pod, a.Container})
		if err != nil {
			return nil, nil, fmt.Errorf("KubeExec: %w", err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := execIn(ctx, c, env, w, a.Command)
			if err != nil {
				return nil, fmt.Errorf("KubeExec: %w", err)
			}
			return out, nil
		}, nil, nil
	})
}

type execAllArgs struct {
	Namespace  string   `arg:"namespace,required" doc:"Namespace of the pods"`
	Pods       string   `arg:"pods,required" doc:"Names of the pods, separated by spaces"`
	Containers string   `arg:"containers,required" doc:"Names of the containers, separated by spaces"`
	Command    []string `arg:"command,required" doc:"Command and arguments"`
}

// kubeExecAll is KubeExecAll. Outputs of the same key: the last pod's, in the
// order given, wins.
func kubeExecAll(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "KubeExecAll", Family: family, Summary: "Runs a command in all given containers of all given pods at once.",
		OpenOutputs: true, Timeout: podCall, Rules: execRules,
	}, func(ctx context.Context, env *function.Env, a execAllArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		var all []where
		var faults []error
		for _, pod := range strings.Fields(a.Pods) {
			for _, container := range strings.Fields(a.Containers) {
				w, err := find(ctx, c, env, where{a.Namespace, pod, container})
				faults = append(faults, err)
				all = append(all, w)
			}
		}
		if err := errors.Join(faults...); err != nil {
			return nil, nil, fmt.Errorf("KubeExecAll: %w", err)
		}
		if len(all) == 0 {
			return nil, nil, fault.New(fault.User, "KubeExecAll: pods %q and containers %q name none", a.Pods, a.Containers)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			outs, errs := make([]function.Outputs, len(all)), make([]error, len(all))
			var wg sync.WaitGroup
			for i, w := range all {
				wg.Go(func() { outs[i], errs[i] = execIn(ctx, c, env, w, a.Command) })
			}
			wg.Wait()
			if err := worst(errs); err != nil {
				return nil, fmt.Errorf("KubeExecAll: %w", err)
			}
			merged := function.Outputs{}
			for _, out := range outs {
				for k, v := range out {
					merged[k] = v
				}
			}
			return merged, nil
		}, nil, nil
	})
}

// worst joins the errors of calls made side by side. Where one's outcome is
// unknown, or one said no, that of all is not "before any effect".
func worst(errs []error) error {
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

// find looks before a command is run that it can be: the pod runs, and has the
// container.
func find(ctx context.Context, c *cluster.Cluster, env *function.Env, w where) (where, error) {
	var pod *corev1.Pod
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) (err error) {
		pod, err = c.Kube.CoreV1().Pods(w.namespace).Get(ctx, w.pod, metav1.GetOptions{})
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
	if w.container == "" {
		if w.container = pod.Annotations["kubectl.kubernetes.io/default-container"]; w.container == "" && len(names) > 0 {
			w.container = names[0]
		}
	}
	if !slices.Contains(names, w.container) {
		return w, fault.New(fault.User, "pod %s/%s has no container %q; it has %s", w.namespace, w.pod, w.container, strings.Join(names, ", "))
	}
	for i := range pod.Status.ContainerStatuses {
		if s := &pod.Status.ContainerStatuses[i]; s.Name == w.container && s.State.Running == nil {
			why := "not running"
			if s.State.Waiting != nil {
				why = s.State.Waiting.Reason
			}
			return w, fault.New(fault.Transient, "container %s of pod %s/%s is %s", w.container, w.namespace, w.pod, why)
		}
	}
	return w, nil
}

// execIn runs a command, and reads its outputs.
func execIn(ctx context.Context, c *cluster.Cluster, env *function.Env, w where, command []string) (function.Outputs, error) {
	log := env.Log.With("pod", w.namespace+"/"+w.pod, "container", w.container)
	line := func(l []byte) {
		if len(l) >= kando.MaxLine { // cut, and a secret in it perhaps with it
			l = []byte("(a line of more than 4 KiB)")
		}
		log.Info("command output", "line", string(l))
	}
	out, errs := &kando.Parser{Line: line}, &kando.Parser{Line: line}
	tail := &kando.Tail{Redact: env.Redact}
	err := stream(ctx, c, w, command, io.MultiWriter(out, tail), io.MultiWriter(errs, tail), env.Heartbeat)
	_, _ = errs.Close()
	var exit *exitError
	if errors.As(err, &exit) {
		words := tail.String()
		if words == "" {
			words = "it printed nothing"
		}
		return nil, fault.New(fault.Command, "%s: exit code %d: %s", w, exit.code, words)
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
