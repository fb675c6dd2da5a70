package data

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"thaw/activities/cluster/movers"
	"thaw/activities/cluster/podexec"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type restoreArgs struct {
	Namespace        string            `arg:"namespace,required" doc:"Namespace of the claims"`
	Image            string            `arg:"image,required" doc:"Image with Thaw's kando; the worker's data.image wins"`
	Prefix           string            `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
	RestorePath      string            `arg:"restorePath" default:"/" doc:"Directory below which the snapshot's own path is written"`
	Pod              string            `arg:"pod" doc:"Pod of the workload whose volumes are mounted, where it mounts them"`
	Volumes          map[string]string `arg:"volumes" doc:"Claim to mount path"`
	BackupTag        string            `arg:"backupTag" doc:"Tag of the snapshot"`
	BackupIdentifier string            `arg:"backupIdentifier" doc:"Id of the snapshot"`
	BackupPath       string            `arg:"backupPath" doc:"Path in the snapshot, which is then written into restorePath itself"`
	repositoryArgs   `arg:",squash"`
	podrun.Args      `arg:",squash"`
}

// one of two arguments must be given.
func oneOf(a, b string, hasA, hasB bool) error {
	if hasA == hasB {
		return fault.New(fault.User, "give either %s or %s", a, b)
	}
	return nil
}

func (m *maker) restoreData() function.Function {
	return moving(m, catalogue.Function{
		Name: "RestoreData", Family: family, Summary: "Writes a snapshot back into volumes, from a pod made for it. Give pod or volumes, and backupTag or backupIdentifier. What is there and not in the snapshot stays.",
		Profile: true, Idempotent: true, Reattach: true, Timeout: dataCall, Rules: movers.Rules,
	}, func(ctx context.Context, env *function.Env, a restoreArgs) (function.Act, error) {
		return m.restoring(ctx, env, a)
	})
}

func (m *maker) restoring(ctx context.Context, env *function.Env, a restoreArgs) (function.Act, error) {
	if err := oneOf("pod", "volumes", a.Pod != "", len(a.Volumes) > 0); err != nil {
		return nil, err
	}
	if err := oneOf("backupTag", "backupIdentifier", a.BackupTag != "", a.BackupIdentifier != ""); err != nil {
		return nil, err
	}
	mounts := a.Volumes
	if a.Pod != "" {
		if env.Workload != nil {
			mounts = env.Workload.Claims[a.Pod]
		}
		if len(mounts) == 0 {
			return nil, fault.New(fault.User, "pod %s is not one of the target's, or mounts no claims; name them in volumes", a.Pod)
		}
	}
	q, err := m.request(env, mover.Restore, a.repositoryArgs)
	if err != nil {
		return nil, err
	}
	q.Repository, q.ID, q.Tag, q.Target, q.Below = a.Prefix, a.BackupIdentifier, a.BackupTag, a.RestorePath, a.BackupPath
	return m.InPod(ctx, env, movers.Pod{Namespace: a.Namespace, Image: a.Image, Args: a.Args, Mounts: mounts}, q)
}

type restoreAllArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the pods"`
	Image          string `arg:"image,required" doc:"Image with Thaw's kando; the worker's data.image wins"`
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repositories in the location"`
	BackupInfo     string `arg:"backupInfo,required" doc:"BackupAllInfo of BackupDataAll"`
	RestorePath    string `arg:"restorePath" default:"/" doc:"Directory below which the snapshots' own path is written"`
	Pods           string `arg:"pods" doc:"Names of the pods, separated by spaces; all of the workload where there is none"`
	repositoryArgs `arg:",squash"`
	podrun.Args    `arg:",squash"`
}

func backupInfo(text string) (map[string]podBackup, error) {
	var info map[string]podBackup
	if err := json.Unmarshal([]byte(text), &info); err != nil {
		return nil, fault.New(fault.User, "backupInfo: %w; give the output BackupAllInfo of BackupDataAll", err)
	}
	return info, nil
}

func (m *maker) restoreDataAll() function.Function {
	return moving(m, catalogue.Function{
		Name: "RestoreDataAll", Family: family, Summary: "Writes snapshots back into the volumes of several pods, from a pod made for each.",
		Profile: true, Idempotent: true, Reattach: true, Timeout: dataCall, Rules: movers.Rules,
	}, func(ctx context.Context, env *function.Env, a restoreAllArgs) (function.Act, error) {
		info, err := backupInfo(a.BackupInfo)
		if err != nil {
			return nil, err
		}
		pods := podsOf(env, a.Pods)
		if len(pods) == 0 {
			return nil, fault.New(fault.User, "the target has no pods, and the argument pods names none")
		}
		acts := make([]function.Act, len(pods))
		for i, pod := range pods {
			b, ok := info[pod]
			if !ok {
				return nil, fault.New(fault.User, "backupInfo has no pod %s", pod)
			}
			acts[i], err = m.restoring(ctx, movers.One(env, i), restoreArgs{
				Namespace: a.Namespace, Image: a.Image, Prefix: path.Join(a.Prefix, pod), RestorePath: a.RestorePath, Pod: pod,
				BackupIdentifier: b.BackupID, repositoryArgs: a.repositoryArgs, Args: a.Args,
			})
			if err != nil {
				return nil, err
			}
		}
		return func(ctx context.Context) (function.Outputs, error) {
			errs := make([]error, len(acts))
			var wg sync.WaitGroup
			for i, act := range acts {
				wg.Go(func() { _, errs[i] = act(ctx) })
			}
			wg.Wait()
			if err := podexec.Worst(errs); err != nil {
				return nil, fmt.Errorf("RestoreDataAll: %w", err)
			}
			return nil, nil
		}, nil
	})
}

type deleteArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
	Image          string `arg:"image" doc:"Image with Thaw's kando; the worker's data.image wins"`
	BackupID       string `arg:"backupID" doc:"Id of the snapshot"`
	BackupTag      string `arg:"backupTag" doc:"Tag of the snapshot"`
	ReclaimSpace   bool   `arg:"reclaimSpace" default:"false" doc:"Free what no snapshot needs; what became useless within a day is kept till a later time"`
	repositoryArgs `arg:",squash"`
	podrun.Args    `arg:",squash"`
}

var freed = outputs("spaceFreed", "Bytes that the location holds less")

func (m *maker) deleteData() function.Function {
	return moving(m, catalogue.Function{
		Name: "DeleteData", Family: family, Summary: "Deletes a snapshot from the repository.",
		Profile: true, Idempotent: true, Reattach: true, Timeout: dataCall, Rules: movers.RulesWithoutClaims, Outputs: freed,
	}, func(ctx context.Context, env *function.Env, a deleteArgs) (function.Act, error) {
		if err := oneOf("backupID", "backupTag", a.BackupID != "", a.BackupTag != ""); err != nil {
			return nil, err
		}
		return m.deleting(ctx, env, a, []mover.Snapshot{{Repository: a.Prefix, ID: a.BackupID, Tag: a.BackupTag}})
	})
}

func (m *maker) deleting(ctx context.Context, env *function.Env, a deleteArgs, list []mover.Snapshot) (function.Act, error) {
	q, err := m.request(env, mover.Delete, a.repositoryArgs)
	if err != nil {
		return nil, err
	}
	q.Delete, q.Reclaim = list, a.ReclaimSpace
	act, err := m.InPod(ctx, env, movers.Pod{Namespace: a.Namespace, Image: a.Image, Args: a.Args}, q)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (function.Outputs, error) {
		out, err := act(ctx)
		if gone(err) {
			return m.Here(ctx, env, q)
		}
		return out, err
	}, nil
}

// gone reports whether a pod cannot be made since its namespace is not there
// any more, with the roles in it: backups outlive what they are of, and are
// deleted all the same.
func gone(err error) bool {
	var s *apierrors.StatusError
	if !errors.As(err, &s) {
		return false
	}
	d := s.Status().Details
	return apierrors.IsForbidden(s) || apierrors.IsNotFound(s) && d != nil && d.Kind == "namespaces"
}

type deleteAllArgs struct {
	Namespace      string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repositories in the location"`
	BackupInfo     string `arg:"backupInfo,required" doc:"BackupAllInfo of BackupDataAll"`
	Image          string `arg:"image" doc:"Image with Thaw's kando; the worker's data.image wins"`
	ReclaimSpace   bool   `arg:"reclaimSpace" default:"false" doc:"Free what no snapshot needs; what became useless within a day is kept till a later time"`
	repositoryArgs `arg:",squash"`
	podrun.Args    `arg:",squash"`
}

func (m *maker) deleteDataAll() function.Function {
	return moving(m, catalogue.Function{
		Name: "DeleteDataAll", Family: family, Summary: "Deletes the snapshots of BackupDataAll from their repositories.",
		Profile: true, Idempotent: true, Reattach: true, Timeout: dataCall, Rules: movers.RulesWithoutClaims, Outputs: freed,
	}, func(ctx context.Context, env *function.Env, a deleteAllArgs) (function.Act, error) {
		info, err := backupInfo(a.BackupInfo)
		if err != nil {
			return nil, err
		}
		var list []mover.Snapshot
		for pod, b := range info {
			list = append(list, mover.Snapshot{Repository: path.Join(a.Prefix, pod), ID: b.BackupID, Tag: b.BackupTag})
		}
		return m.deleting(ctx, env, deleteArgs{Namespace: a.Namespace, Image: a.Image, ReclaimSpace: a.ReclaimSpace, repositoryArgs: a.repositoryArgs, Args: a.Args}, list)
	})
}

type statsArgs struct {
	Namespace     string `arg:"namespace,required" doc:"Namespace of the pod made for it"`
	Prefix        string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
	BackupID      string `arg:"backupID,required" doc:"Id of the snapshot"`
	Image         string `arg:"image" doc:"Image with Thaw's kando; the worker's data.image wins"`
	StatsMode     string `arg:"statsMode" alias:"mode" enum:"restore-size" default:"restore-size" doc:"What to count: the files as a restore writes them"`
	EncryptionKey string `arg:"encryptionKey" doc:"Passphrase of the repository; the worker's secretsKey where there is none"`
	podrun.Args   `arg:",squash"`
}

func (m *maker) backupDataStats() function.Function {
	return moving(m, catalogue.Function{
		Name: "BackupDataStats", Family: family, Summary: "Tells the size of a snapshot in the repository.",
		Profile: true, Idempotent: true, Reattach: true, ReadOnly: true, Timeout: dataCall, Rules: movers.RulesWithoutClaims,
		Outputs: append(outputs("mode", "What was counted", "fileCount", "Number of files", "size", "Size"), version),
	}, func(ctx context.Context, env *function.Env, a statsArgs) (function.Act, error) {
		q, err := m.request(env, mover.Stats, repositoryArgs{EncryptionKey: a.EncryptionKey})
		if err != nil {
			return nil, err
		}
		q.Repository, q.ID = a.Prefix, a.BackupID
		act, err := m.InPod(ctx, env, movers.Pod{Namespace: a.Namespace, Image: a.Image, Args: a.Args}, q)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := act(ctx)
			if err == nil {
				out["mode"] = a.StatsMode
			}
			return out, err
		}, nil
	})
}

type checkArgs struct {
	Prefix         string `arg:"backupArtifactPrefix,required" doc:"Path of the repository in the location"`
	Image          string `arg:"image" doc:"Image with Thaw's kando; the worker's data.image wins"`
	repositoryArgs `arg:",squash"`
	podrun.Args    `arg:",squash"`
}

func (m *maker) checkRepository() function.Function {
	return moving(m, catalogue.Function{
		Name: "CheckRepository", Family: family, Summary: "Tells whether the repository is there and its passphrase fits.",
		Profile: true, Idempotent: true, Reattach: true, ReadOnly: true, Timeout: dataCall, Rules: movers.RulesWithoutClaims,
		Outputs: append(outputs("passwordIncorrect", "true or false", "repoUnavailable", "true or false"), version),
	}, func(ctx context.Context, env *function.Env, a checkArgs) (function.Act, error) {
		q, err := m.request(env, mover.Check, a.repositoryArgs)
		if err != nil {
			return nil, err
		}
		q.Repository = a.Prefix
		return m.InPod(ctx, env, movers.Pod{Image: a.Image, Args: a.Args}, q)
	})
}
