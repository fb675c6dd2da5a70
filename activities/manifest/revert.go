package manifest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/cluster/manifests"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

type revertArgs struct {
	Directory string `arg:"directory" doc:"Where ApplyManifests found its file; the restore point's directory where there is none"`
	Namespace string `arg:"namespace" doc:"For people; what is reverted is what this run applied"`
}

// revertManifests is the compensation of ApplyManifests. It needs no output of
// it: the worker that applied may have died before it could tell. Idempotent.
func revertManifests(c *cluster.Cluster, key string) function.Function {
	return function.New(catalogue.Function{
		Name: "RevertManifests", Family: family,
		Summary:    "Put the objects that this run applied back as they were, and delete those that it made. The compensation of ApplyManifests.",
		Idempotent: true, Timeout: 15 * time.Minute,
		Outputs: []catalogue.Output{
			{Name: "deleted", Description: "list of the objects that were deleted, as kind/name"},
			{Name: "reverted", Description: "list of the objects that are as they were"},
		},
		Rules: []catalogue.Rule{everything("get", "update", "create", "delete")},
	}, func(ctx context.Context, env *function.Env, a revertArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		dir := a.Directory
		if dir == "" {
			dir = env.RestorePoint.Directory
		}
		id, err := manifests.Identity(key)
		if err != nil {
			return nil, fmt.Errorf("revert manifests: %w", err)
		}
		file := beforeFile(env, dir)
		all, err := readBefore(file, id)
		if errors.Is(err, fs.ErrNotExist) {
			return function.Outputs{"deleted": []any{}, "reverted": []any{}}, nil // nothing was applied
		}
		if err != nil {
			return nil, fmt.Errorf("revert manifests: %w", err)
		}
		ap := &application{c: c, env: env, id: id}
		out, err := ap.revert(ctx, all)
		if err != nil {
			return nil, fmt.Errorf("revert manifests of namespace %s: %w", a.Namespace, err)
		}
		return out, os.Remove(file)
	})
}

// revert goes backwards: what uses others goes first.
func (ap *application) revert(ctx context.Context, all []was) (function.Outputs, error) {
	deleted, reverted := []any{}, []any{}
	var faults []error
	slices.Reverse(all)
	for i := range all {
		w := &all[i]
		o := &w.Object
		if o.GetKind() == "PersistentVolumeClaim" {
			continue // ReturnVolumes knows what was there
		}
		name := o.GetKind() + "/" + o.GetName()
		r, err := ap.resource(ctx, o)
		if err == nil {
			err = cluster.Insist(ctx, ap.env.Heartbeat, func(ctx context.Context) error {
				if w.Before == nil {
					err := r.Delete(ctx, o.GetName(), metav1.DeleteOptions{})
					if apierrors.IsNotFound(err) {
						return nil
					}
					return err
				}
				return ap.put(ctx, w)
			})
		}
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		case w.Before == nil:
			deleted = append(deleted, name)
		default:
			reverted = append(reverted, name)
		}
	}
	return function.Outputs{"deleted": deleted, "reverted": reverted}, errors.Join(faults...)
}

// put writes an object as it was.
func (ap *application) put(ctx context.Context, w *was) error {
	r, err := ap.resource(ctx, &w.Object)
	if err != nil {
		return err
	}
	old := w.Before.DeepCopy()
	old.SetManagedFields(nil)
	now, err := r.Get(ctx, old.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		old = manifests.Clean(old)
		_, err = r.Create(ctx, old, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	old.SetResourceVersion(now.GetResourceVersion())
	old.SetUID(now.GetUID())
	_, err = r.Update(ctx, old, metav1.UpdateOptions{})
	return err
}

type waitArgs struct {
	File      string `arg:"file,required" doc:"The file of the manifests"`
	Namespace string `arg:"namespace" doc:"Namespace of the workloads; the one that was captured where there is none"`
}

func waitWorkloads(c *cluster.Cluster) function.Function {
	return function.New(catalogue.Function{
		Name: "WaitWorkloads", Family: family, Summary: "Wait until the workloads of captured manifests are ready.",
		Idempotent: true, ReadOnly: true, Timeout: 30 * time.Minute,
		Rules: []catalogue.Rule{{Group: "apps", Resources: []string{"deployments", "statefulsets"}, Verbs: []string{"list", "watch"}}},
	}, func(ctx context.Context, env *function.Env, a waitArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		set, err := manifests.Read(a.File)
		if err != nil {
			return nil, err
		}
		if a.Namespace == "" {
			a.Namespace = set.Namespace
		}
		if err := manifests.Ready(ctx, c, a.Namespace, set, env.Heartbeat); err != nil {
			return nil, fmt.Errorf("workloads of namespace %s: %w", a.Namespace, err)
		}
		return function.Outputs{}, nil
	})
}

type namespaceArgs struct {
	Name string `arg:"name,required" doc:"Name of the namespace"`
	File string `arg:"file" doc:"Manifests whose namespace's labels and annotations it gets"`
}

// createNamespace is idempotent: one that this run made is found.
func createNamespace(c *cluster.Cluster) function.Function {
	return function.New(catalogue.Function{
		Name: "CreateNamespace", Family: family, Summary: "Make a namespace.", Idempotent: true, Timeout: time.Minute,
		Outputs: []catalogue.Output{{Name: "name", Description: "its name"}},
		Rules:   []catalogue.Rule{namespaces("create", "get")},
	}, func(ctx context.Context, env *function.Env, a namespaceArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.Name, Labels: map[string]string{}, Annotations: map[string]string{}}}
		if a.File != "" {
			set, err := manifests.Read(a.File)
			if err != nil {
				return nil, err
			}
			for k, v := range set.Labels {
				if k != corev1.LabelMetadataName {
					ns.Labels[k] = v
				}
			}
			for k, v := range set.Annotations {
				ns.Annotations[k] = v
			}
		}
		ns.Annotations[cluster.AnnotationRun] = env.Run.ID
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := c.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) {
				there, getErr := c.Kube.CoreV1().Namespaces().Get(ctx, a.Name, metav1.GetOptions{})
				if getErr == nil && there.Annotations[cluster.AnnotationRun] == env.Run.ID {
					return nil
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("create namespace: %w", err)
		}
		return function.Outputs{"name": a.Name}, nil
	})
}

// deleteNamespace deletes only what this run made. Idempotent.
func deleteNamespace(c *cluster.Cluster) function.Function {
	return function.New(catalogue.Function{
		Name: "DeleteNamespace", Family: family, Summary: "Delete a namespace that this run made. The compensation of CreateNamespace.",
		Idempotent: true, Timeout: 10 * time.Minute,
		Rules: []catalogue.Rule{namespaces("get", "delete", "list", "watch")},
	}, func(ctx context.Context, env *function.Env, a namespaceArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		there, err := c.Get(ctx, plan.Reference{Kind: "Namespace", Name: a.Name}, env.Heartbeat)
		if apierrors.IsNotFound(err) {
			return function.Outputs{}, nil
		}
		if err != nil {
			return nil, err
		}
		if there.GetAnnotations()[cluster.AnnotationRun] != env.Run.ID {
			return nil, fault.New(fault.Permanent, "delete namespace %s: this run did not make it", a.Name)
		}
		err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			err := c.Kube.CoreV1().Namespaces().Delete(ctx, a.Name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("delete namespace %s: %w", a.Name, err)
		}
		return function.Outputs{}, gone(ctx, c, env, a.Name)
	})
}

// gone waits until a namespace is gone.
func gone(ctx context.Context, c *cluster.Cluster, env *function.Env, name string) error {
	return cluster.Until(ctx, c, cluster.Watched{Resource: corev1.SchemeGroupVersion.WithResource("namespaces"), Name: name, Note: env.Heartbeat},
		func(left []corev1.Namespace) (string, error) {
			if len(left) == 0 {
				return "", nil
			}
			return fmt.Sprintf("namespace %s is still there", name), nil
		})
}
