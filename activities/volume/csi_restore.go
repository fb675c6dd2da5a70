package volume

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type restoreSnapshotArgs struct {
	Name         string            `arg:"name,required" doc:"name of the snapshot"`
	PVC          string            `arg:"pvc,required" doc:"name of the new claim"`
	Namespace    string            `arg:"namespace,required" doc:"namespace of both"`
	StorageClass string            `arg:"storageClass,required" doc:"StorageClass of the claim"`
	RestoreSize  string            `arg:"restoreSize,required" doc:"size of the claim"`
	AccessModes  []string          `arg:"accessModes" default:"ReadWriteOnce" doc:"access modes of the claim"`
	VolumeMode   string            `arg:"volumeMode" enum:"Filesystem|Block" default:"Filesystem" doc:"volume mode of the claim"`
	Labels       map[string]string `arg:"labels" doc:"labels of the claim"`
}

// restoreCSISnapshot is Kanister's: it does not wait until the claim is bound.
// It waits for the snapshot, though: a claim that is made before goes into the
// provisioner's long back-off. Idempotent: another attempt finds its claim.
func restoreCSISnapshot(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "RestoreCSISnapshot", Family: family,
		Summary:    "Make a claim from a CSI snapshot once that is ready to use; does not wait until the claim is bound.",
		Idempotent: true,
		Timeout:    time.Hour,
		Rules: []catalogue.Rule{
			snapshotRule("list", "watch"),
			claimRule("get", "create"),
		},
	}, func(ctx context.Context, env *function.Env, a restoreSnapshotArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := fmt.Sprintf("restore pvc %s/%s", a.Namespace, a.PVC)
		size, err := resource.ParseQuantity(a.RestoreSize)
		if err != nil {
			return nil, nil, fault.New(fault.User, "%s: restoreSize %q: write it as 10Gi: %w", doing, a.RestoreSize, err)
		}
		spec := claimSpec{
			at: types.NamespacedName{Namespace: a.Namespace, Name: a.PVC}, snapshot: a.Name, storageClass: a.StorageClass,
			size: size, accessModes: a.AccessModes, volumeMode: a.VolumeMode, labels: a.Labels,
		}
		if err := spec.check(); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		had, err := getClaim(ctx, c, env, spec.at)
		if err == nil && had != nil && !cluster.MadeBy(had, env.Key) {
			err = another("claim", spec.at, had.Annotations)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			v := []Volume{{Namespace: a.Namespace, Snapshot: a.Name}}
			err := ready(ctx, c, env, v)
			if err == nil {
				err = spec.fits(v[0].RestoreSize)
			}
			if err == nil {
				_, err = makeClaim(ctx, c, env, spec.claim())
			}
			return function.Outputs{}, wrap(doing, err)
		}, nil, nil
	})
}
