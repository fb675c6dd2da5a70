package data

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"sync"

	"thaw/activities/cluster/movers"
	"thaw/activities/cluster/podexec"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type backupArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the pod"`
	Pod            string `arg:"pod,required" doc:"Name of the pod"`
	Container      string `arg:"container,required" doc:"Container with Thaw's kando, which sees the path"`
	Include        string `arg:"includePath,required" doc:"Path to copy"`
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
	repositoryArgs `arg:",squash"`
}

// save is the request of a backup of one container's path.
func (m *maker) save(env *function.Env, w podexec.Where, include, prefix string, a repositoryArgs, more ...string) (*mover.Request, error) {
	q, err := m.request(env, mover.Save, a)
	if err != nil {
		return nil, err
	}
	q.Repository, q.Path, q.Tag = prefix, include, tag(env, more...)
	q.Source = fmt.Sprintf("/%s/%s%s", w.Namespace, w.Pod, path.Clean("/"+include))
	return q, nil
}

func (m *maker) backupData() function.Function {
	return moving(m, catalogue.Function{
		Name: "BackupData", Family: family, Summary: "Copies a path of a pod's container into the repository.",
		Profile: true, Cut: true, Idempotent: true, Outputs: savedOutputs, Timeout: dataCall, Rules: podexec.Rules,
	}, func(ctx context.Context, env *function.Env, a backupArgs) (function.Act, error) {
		w, err := podexec.Find(ctx, m.Cluster, env, podexec.Where{Namespace: a.Namespace, Pod: a.Pod, Container: a.Container})
		if err != nil {
			return nil, err
		}
		q, err := m.save(env, w, a.Include, a.Prefix, a.repositoryArgs)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := m.InContainer(ctx, env, w, q)
			if err != nil {
				return nil, fmt.Errorf("BackupData: %w", err)
			}
			return out, nil
		}, nil
	})
}

type backupAllArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the pods"`
	Pods           string `arg:"pods" doc:"Names of the pods, separated by spaces; all of the workload where there is none"`
	Container      string `arg:"container,required" doc:"Container with Thaw's kando, which sees the path"`
	Include        string `arg:"includePath,required" doc:"Path to copy"`
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repositories in the location, one below it for each pod"`
	repositoryArgs `arg:",squash"`
}

// podBackup is what BackupDataAll tells of a pod, and RestoreDataAll and
// DeleteDataAll read; Kanister's fields.
type podBackup struct {
	PodName   string
	BackupID  string
	BackupTag string
}

func (m *maker) backupDataAll() function.Function {
	return moving(m, catalogue.Function{
		Name: "BackupDataAll", Family: family, Summary: "Copies a path of several pods into repositories.",
		Profile: true, Cut: true, Idempotent: true, Timeout: dataCall, Rules: podexec.Rules,
		Outputs: append(outputs("BackupAllInfo", "JSON: pod to snapshot"), version),
	}, func(ctx context.Context, env *function.Env, a backupAllArgs) (function.Act, error) {
		pods := podsOf(env, a.Pods)
		if len(pods) == 0 {
			return nil, fault.New(fault.User, "the target has no pods, and the argument pods names none")
		}
		var requests []*mover.Request
		var all []podexec.Where
		for _, pod := range pods {
			w, err := podexec.Find(ctx, m.Cluster, env, podexec.Where{Namespace: a.Namespace, Pod: pod, Container: a.Container})
			if err != nil {
				return nil, err
			}
			q, err := m.save(env, w, a.Include, path.Join(a.Prefix, pod), a.repositoryArgs, pod)
			if err != nil {
				return nil, err
			}
			all, requests = append(all, w), append(requests, q)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			outs, errs := make([]function.Outputs, len(all)), make([]error, len(all))
			var wg sync.WaitGroup
			for i, w := range all {
				wg.Go(func() { outs[i], errs[i] = m.InContainer(ctx, env, w, requests[i]) })
			}
			wg.Wait()
			if err := podexec.Worst(errs); err != nil {
				return nil, fmt.Errorf("BackupDataAll: %w", err)
			}
			info := map[string]podBackup{}
			for i, pod := range pods {
				info[pod] = podBackup{PodName: pod, BackupID: text(outs[i], "backupID"), BackupTag: text(outs[i], "backupTag")}
			}
			b, err := json.Marshal(info)
			if err != nil {
				return nil, fmt.Errorf("BackupDataAll: %w", err)
			}
			return function.Outputs{"BackupAllInfo": string(b), movers.Version: movers.OutputsVersion}, nil
		}, nil
	})
}

func text(out function.Outputs, key string) string {
	s, _ := out[key].(string)
	return s
}

// podsOf are those that an argument names, or the workload's.
func podsOf(env *function.Env, given string) []string {
	if pods := strings.Fields(given); len(pods) > 0 || env.Workload == nil {
		return pods
	}
	return env.Workload.Pods
}

type copyArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the claim"`
	Volume         string `arg:"volume,required" doc:"Name of the claim"`
	Prefix         string `arg:"dataArtifactPrefix,required" doc:"Path of the repository in the location"`
	Image          string `arg:"image" doc:"Image with Thaw's kando; the worker's data.image wins"`
	MountPath      string `arg:"mountPath" doc:"Where the volume is mounted; /mnt/vol_data/<volume> where there is none"`
	repositoryArgs `arg:",squash"`
	podrun.Args    `arg:",squash"`
}

func (m *maker) copyVolumeData() function.Function {
	return moving(m, catalogue.Function{
		Name: "CopyVolumeData", Family: family, Summary: "Copies a volume into the repository, from a pod made for it.",
		Profile: true, Cut: true, Idempotent: true, Reattach: true, Timeout: dataCall, Rules: movers.Rules,
		Outputs: append(outputs("backupRoot", "Path of the copied root", "backupArtifactLocation", "Path of the repository"), savedOutputs...),
	}, func(ctx context.Context, env *function.Env, a copyArgs) (function.Act, error) {
		q, err := m.request(env, mover.Save, a.repositoryArgs)
		if err != nil {
			return nil, err
		}
		mount := a.MountPath
		if mount == "" {
			mount = "/mnt/vol_data/" + a.Volume
		}
		q.Repository, q.Path, q.Tag = a.Prefix, mount, tag(env)
		q.Source = fmt.Sprintf("/%s/%s", a.Namespace, a.Volume)
		act, err := m.InPod(ctx, env, movers.Pod{Namespace: a.Namespace, Image: a.Image, Args: a.Args, Mounts: map[string]string{a.Volume: mount}, ReadOnly: true}, q)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := act(ctx)
			if err != nil {
				return nil, fmt.Errorf("CopyVolumeData: %w", err)
			}
			out["backupRoot"], out["backupArtifactLocation"] = mount, a.Prefix
			return out, nil
		}, nil
	})
}
