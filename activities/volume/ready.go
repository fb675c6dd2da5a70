package volume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type readyArgs struct {
	Volumes   any           `arg:"volumes" type:"object" doc:"what CutVolumes put out"`
	Snapshots []string      `arg:"snapshots" doc:"names of VolumeSnapshots, in place of volumes"`
	Namespace string        `arg:"namespace" doc:"namespace of snapshots (default: the target's)"`
	Retain    bool          `arg:"retain" default:"false" doc:"let what the storage has outlive the VolumeSnapshots, which go with their namespace; DeleteSnapshots deletes it all the same"`
	Timeout   time.Duration `arg:"timeout" default:"6h" doc:"how long to wait; some storages upload a snapshot before it is ready"`
}

// waitSnapshotsReady belongs after the thaw: ready means that volumes can be
// made of a snapshot, and some storages take hours for that.
func waitSnapshotsReady(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "WaitSnapshotsReady", Family: family,
		Summary: "Wait until volumes can be made of snapshots. Run it after the thaw.",
		Outputs: []catalogue.Output{
			{Name: "volumes", Description: "the volumes given, with restoreSize, and with the snapshots of a group by name"},
		},
		Idempotent: true,
		Timeout:    24 * time.Hour,
		Rules: []catalogue.Rule{
			snapshotRule("list", "watch"), contentRule("patch"),
			{Group: groupName, Resources: []string{"volumegroupsnapshots"}, Verbs: []string{"get"}},
			{Group: groupName, Resources: []string{"volumegroupsnapshotcontents"}, Verbs: []string{"patch"}, Cluster: true},
		},
	}, func(_ context.Context, env *function.Env, a readyArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := "wait for snapshots"
		volumes, err := readyVolumes(env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			ctx, cancel := context.WithTimeoutCause(ctx, a.Timeout, fmt.Errorf("not ready after %s", a.Timeout))
			defer cancel()
			if err := ready(ctx, c, env, volumes); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			if a.Retain {
				if err := retain(ctx, c, env, volumes); err != nil {
					return nil, fmt.Errorf("%s: %w", doing, err)
				}
			}
			return function.Outputs{"volumes": data(volumes)}, nil
		}, nil, nil
	})
}

func readyVolumes(env *function.Env, a readyArgs) ([]Volume, error) {
	volumes, err := decode[Volume]("volumes", a.Volumes)
	if err != nil {
		return nil, err
	}
	if a.Timeout <= 0 {
		return nil, fault.New(fault.User, "timeout %s: it must be more than nothing", a.Timeout)
	}
	if (a.Volumes != nil) == (len(a.Snapshots) > 0) {
		return nil, fault.New(fault.User, "give either volumes or snapshots")
	}
	if len(a.Snapshots) > 0 {
		namespace, err := namespaceOf(a.Namespace, env.Target)
		if err != nil {
			return nil, err
		}
		for _, name := range unique(a.Snapshots) {
			volumes = append(volumes, Volume{Namespace: namespace, Snapshot: name})
		}
	}
	for _, v := range volumes {
		if v.Namespace == "" || (v.Snapshot == "" && v.Group == "") {
			return nil, fault.New(fault.User, "volumes: %s has no snapshot and namespace", v.claim())
		}
	}
	return volumes, nil
}

// ready waits until all snapshots are ready to use, and writes down what is
// known of them then.
func ready(ctx context.Context, c *cluster.Cluster, env *function.Env, volumes []Volume) error {
	var namespaces []string
	for _, v := range volumes {
		namespaces = append(namespaces, v.Namespace)
	}
	for _, namespace := range unique(namespaces) {
		w := cluster.Watched{Resource: snapshotResource, Namespace: namespace, Note: env.Heartbeat}
		if len(volumes) == 1 {
			w.Name = volumes[0].Snapshot
		}
		err := cluster.Until(ctx, c, w, func(items []snapshotv1.VolumeSnapshot) (string, error) {
			var missing []string
			var errs []error
			for i := range volumes {
				v := &volumes[i]
				if v.Namespace != namespace {
					continue
				}
				why, err := v.ready(items)
				if err != nil {
					errs = append(errs, err)
				}
				if why != "" {
					missing = append(missing, why)
				}
			}
			slices.Sort(missing)
			return strings.Join(missing, "; "), together(errs)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ready looks for the volume's snapshot, and says what it lacks.
func (v *Volume) ready(items []snapshotv1.VolumeSnapshot) (missing string, err error) {
	i := slices.IndexFunc(items, func(s snapshotv1.VolumeSnapshot) bool {
		if v.Snapshot == "" {
			return memberOf(&s, v.Group) && deref(s.Spec.Source.PersistentVolumeClaimName) == v.PVC
		}
		return s.Name == v.Snapshot
	})
	if i < 0 {
		if v.Snapshot == "" {
			return fmt.Sprintf("the snapshot of pvc %s in VolumeGroupSnapshot %s is not there yet", v.claim(), v.Group), nil
		}
		return "", fault.New(fault.Permanent, "VolumeSnapshot %s: not found", v.snapshot())
	}
	s := &items[i]
	if s.Status != nil && deref(s.Status.ReadyToUse) {
		v.Snapshot = s.Name
		v.Content = contentOf(s)
		if s.Status.RestoreSize != nil {
			v.RestoreSize = s.Status.RestoreSize.String()
		}
		return "", nil
	}
	at := v.Namespace + "/" + s.Name
	if s.Status == nil {
		return fmt.Sprintf("VolumeSnapshot %s is not ready to use", at), nil
	}
	message, final := said(s.Status.Error)
	switch {
	case final:
		return "", fault.New(fault.Permanent, "VolumeSnapshot %s: %s", at, message)
	case s.DeletionTimestamp != nil:
		return "", fault.New(fault.Permanent, "VolumeSnapshot %s: is being deleted", at)
	case message != "":
		return fmt.Sprintf("VolumeSnapshot %s is not ready to use: %s", at, message), nil
	}
	return fmt.Sprintf("VolumeSnapshot %s is not ready to use", at), nil
}
