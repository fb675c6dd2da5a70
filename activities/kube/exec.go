package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"thaw/activities/cluster"
	"thaw/activities/cluster/podexec"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type execArgs struct {
	Namespace string   `arg:"namespace,required" doc:"Namespace of the pod"`
	Pod       string   `arg:"pod,required" doc:"Name of the pod"`
	Container string   `arg:"container" doc:"Container of the pod; the one that its annotation kubectl.kubernetes.io/default-container names, else its first, where there is none"`
	Command   []string `arg:"command,required" doc:"Command and arguments; what it prints with kando output is the phase's output"`
}

// kubeExec is KubeExec. It is for short commands: a stream through the API
// server breaks with it, and the command's end is then unknown. Long work
// belongs into a KubeTask.
func kubeExec(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "KubeExec", Family: family, Summary: "Runs a command in a container of a running pod.",
		OpenOutputs: true, Timeout: podCall, Rules: podexec.Rules,
	}, func(ctx context.Context, env *function.Env, a execArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		w, err := podexec.Find(ctx, c, env, podexec.Where{Namespace: a.Namespace, Pod: a.Pod, Container: a.Container})
		if err != nil {
			return nil, nil, fmt.Errorf("KubeExec: %w", err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := podexec.Run(ctx, c, env, w, podexec.Command{Args: a.Command})
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
		OpenOutputs: true, Timeout: podCall, Rules: podexec.Rules,
	}, func(ctx context.Context, env *function.Env, a execAllArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		var all []podexec.Where
		var faults []error
		for _, pod := range strings.Fields(a.Pods) {
			for _, container := range strings.Fields(a.Containers) {
				w, err := podexec.Find(ctx, c, env, podexec.Where{Namespace: a.Namespace, Pod: pod, Container: container})
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
				wg.Go(func() { outs[i], errs[i] = podexec.Run(ctx, c, env, w, podexec.Command{Args: a.Command}) })
			}
			wg.Wait()
			if err := podexec.Worst(errs); err != nil {
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
