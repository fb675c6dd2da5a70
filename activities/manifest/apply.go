package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"thaw/activities/cluster"
	"thaw/activities/cluster/manifests"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

type applyArgs struct {
	File           string                `arg:"file,required" doc:"The file of the manifests"`
	Namespace      string                `arg:"namespace" doc:"Namespace to make the objects in; the one that was captured where there is none"`
	StorageClasses map[string]string     `arg:"storageClasses" doc:"StorageClasses by new ones: old to new"`
	Images         map[string]string     `arg:"images" doc:"Images by new ones: old to new; both may end in *"`
	Transforms     []manifests.Transform `arg:"transforms" type:"object" doc:"list of {kind, name, patch}: a JSON patch (RFC 6902) of the objects of that kind, and of that name (a pattern); one whose test fails leaves the object as it is"`
}

// manager owns the fields that Thaw applies.
const manager = "thaw"

// applyManifests is idempotent. What it changes is kept, encrypted, in the
// restore point's directory before it is changed: RevertManifests puts it back.
func applyManifests(c *cluster.Cluster, key string) function.Function {
	return function.New(catalogue.Function{
		Name: "ApplyManifests", Family: family,
		Summary:    "Make the captured objects in a namespace, by server-side apply: what is there already is made as it was captured. Claims that are there are left alone.",
		Idempotent: true, Timeout: 15 * time.Minute,
		Outputs: []catalogue.Output{
			{Name: "created", Description: "list of the objects that were made, as kind/name"},
			{Name: "changed", Description: "list of the objects that were there"},
			{Name: "left", Description: "list of the claims that were left alone"},
		},
		Rules: []catalogue.Rule{everything("get", "patch", "create")},
	}, func(ctx context.Context, env *function.Env, a applyArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		ap, err := newApplication(c, env, a.File, a.Namespace, key)
		if err != nil {
			return nil, fmt.Errorf("apply manifests: %w", err)
		}
		ap.changes = manifests.Changes{From: ap.set.Namespace, Into: ap.into, StorageClasses: a.StorageClasses, Images: a.Images, Transforms: a.Transforms}
		out, err := ap.run(ctx)
		if err != nil {
			return nil, fmt.Errorf("apply manifests to namespace %s: %w", ap.into, err)
		}
		return out, nil
	})
}

// application is one set of manifests on its way into a namespace.
type application struct {
	c       *cluster.Cluster
	env     *function.Env
	id      *age.X25519Identity
	set     *manifests.Set
	objects []unstructured.Unstructured
	into    string
	changes manifests.Changes
	before  string // the file that holds what was there
}

func newApplication(c *cluster.Cluster, env *function.Env, file, into, key string) (*application, error) {
	set, err := manifests.Read(file)
	if err != nil {
		return nil, err
	}
	id, err := manifests.Identity(key)
	if err != nil {
		return nil, err
	}
	ap := &application{c: c, env: env, id: id, set: set, into: into, objects: set.Objects, before: beforeFile(env, filepath.Dir(file))}
	if into == "" {
		ap.into = set.Namespace
	}
	if set.Secrets > 0 {
		sealed, err := os.ReadFile(filepath.Join(filepath.Dir(file), manifests.SecretsFile))
		if err != nil {
			return nil, fault.New(fault.User, "the Secrets of the restore point: %w", err)
		}
		secrets, err := manifests.Open(sealed, id)
		if err != nil {
			return nil, err
		}
		ap.objects = append(secrets, ap.objects...)
		manifests.Sort(ap.objects)
	}
	return ap, nil
}

// beforeFile is where a run keeps what was there before it.
func beforeFile(env *function.Env, dir string) string {
	return filepath.Join(dir, "before-"+digest([]byte(env.Run.ID))[:16]+".json.age")
}

// was is what an object was before: nil where it was not there.
type was struct {
	Object unstructured.Unstructured  `json:"object"`
	Before *unstructured.Unstructured `json:"before,omitempty"`
}

func (ap *application) run(ctx context.Context) (function.Outputs, error) {
	// All of them are changed before one is applied: a transform that fails
	// fails before anything is touched.
	var changed []unstructured.Unstructured
	var faults []error
	for i := range ap.objects {
		o, err := ap.changes.Apply(&ap.objects[i])
		if err != nil {
			faults = append(faults, err)
			continue
		}
		changed = append(changed, *o)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	before, err := ap.remember(ctx, changed)
	if err != nil {
		return nil, err
	}
	out := map[string][]any{"created": {}, "changed": {}, "left": {}}
	for i := range changed {
		o := &changed[i]
		name := o.GetKind() + "/" + o.GetName()
		list := "changed"
		if before[i].Before == nil {
			list = "created"
		}
		if o.GetKind() == "PersistentVolumeClaim" && list == "changed" {
			out["left"] = append(out["left"], name) // RestoreVolumes made it, or it is not ours to change
			continue
		}
		ap.env.Heartbeat("applying " + name)
		if err := ap.apply(ctx, o); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
			continue
		}
		out[list] = append(out[list], name)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return function.Outputs{"created": out["created"], "changed": out["changed"], "left": out["left"]}, nil
}

func (ap *application) resource(ctx context.Context, o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	var r dynamic.ResourceInterface
	err := cluster.Insist(ctx, ap.env.Heartbeat, func(context.Context) error {
		gvk := o.GroupVersionKind()
		gvr, err := ap.c.Resource(plan.Reference{Kind: gvk.Kind, Group: gvk.Group, APIVersion: gvk.Version, Name: o.GetName()})
		r = ap.c.Dynamic.Resource(gvr).Namespace(o.GetNamespace())
		return err
	})
	return r, err
}

// remember looks at what is there, and keeps it before any of it is changed. A
// second attempt takes what the first one saw.
func (ap *application) remember(ctx context.Context, objects []unstructured.Unstructured) ([]was, error) {
	if known, err := readBefore(ap.before, ap.id); err == nil && len(known) == len(objects) {
		return known, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := make([]was, len(objects))
	var faults []error
	for i := range objects {
		o := &objects[i]
		all[i].Object = *o
		r, err := ap.resource(ctx, o)
		if err == nil {
			err = cluster.Insist(ctx, ap.env.Heartbeat, func(ctx context.Context) error {
				there, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				all[i].Before = there
				return err
			})
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	text, err := json.Marshal(all)
	if err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	sealed, err := manifests.SealText(text, ap.id)
	if err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	return all, write(ap.before, sealed)
}

func readBefore(file string, id *age.X25519Identity) ([]was, error) {
	sealed, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	text, err := manifests.OpenText(sealed, id)
	if err != nil {
		return nil, err
	}
	var all []was
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fault.New(fault.Permanent, "%s: %w", file, err)
	}
	return all, nil
}

func (ap *application) apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := ap.resource(ctx, o)
	if err != nil {
		return err
	}
	return cluster.Insist(ctx, ap.env.Heartbeat, func(ctx context.Context) error {
		_, err := r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: manager, Force: true})
		return err
	})
}
