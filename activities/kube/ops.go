package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

type opsArgs struct {
	Operation       string         `arg:"operation,required" enum:"create|patch|delete" doc:"What to do"`
	Namespace       string         `arg:"namespace" default:"default" doc:"Namespace of the object, where it names none itself"`
	Spec            string         `arg:"spec" doc:"The object, or the patch, as YAML text"`
	ObjectReference map[string]any `arg:"objectReference" type:"object" doc:"The object to patch or delete: {apiVersion, group, resource, name, namespace}"`
}

// kubeOps is KubeOps. A second attempt of the call finds what the first one
// made. Deleting, it waits until the object is gone.
func kubeOps(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "KubeOps", Family: family, Summary: "Creates, patches or deletes an object.",
		Idempotent: true, Timeout: shortCall,
		Outputs: []catalogue.Output{
			{Name: "apiVersion", Description: "API version of the object"}, {Name: "group", Description: "API group of the object"},
			{Name: "resource", Description: "Resource of the object"}, {Name: "kind", Description: "Kind of the object"},
			{Name: "name", Description: "Name of the object"}, {Name: "namespace", Description: "Namespace of the object"},
		},
	}, func(ctx context.Context, env *function.Env, a opsArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		o := &operation{c: c, env: env, args: a}
		act, err := o.prepare(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("KubeOps %s: %w", a.Operation, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := act(ctx)
			if err != nil {
				return nil, fmt.Errorf("KubeOps %s: %s: %w", a.Operation, o, err)
			}
			return out, nil
		}, nil, nil
	})
}

type operation struct {
	c    *cluster.Cluster
	env  *function.Env
	args opsArgs

	gvr       schema.GroupVersionResource
	kind      string
	name      string
	namespace string // "" for what has none
	object    *unstructured.Unstructured
}

func (o *operation) String() string {
	what := o.kind
	if what == "" {
		what = o.gvr.Resource
	}
	if o.namespace == "" {
		return what + " " + o.name
	}
	return what + " " + o.namespace + "/" + o.name
}

func (o *operation) prepare(ctx context.Context) (function.Act, error) {
	switch o.args.Operation {
	case "create":
		if o.args.Spec == "" {
			return nil, fault.New(fault.User, "the argument spec is required")
		}
		if len(o.args.ObjectReference) > 0 {
			return nil, fault.New(fault.User, "objectReference is for patch and delete; the object to create is spec")
		}
		var err error
		if o.object, err = one(o.args.Spec); err != nil {
			return nil, fault.New(fault.User, "spec: %w", err)
		}
		if o.object.GetName() == "" { // generateName: a name that every attempt of the call gives again
			o.object.SetName(o.object.GetGenerateName() + o.env.Key[max(0, len(o.env.Key)-8):])
		}
		gvk := o.object.GroupVersionKind()
		ref := plan.Reference{Kind: gvk.Kind, Group: gvk.Group, APIVersion: gvk.Version, Name: o.object.GetName(), Namespace: o.object.GetNamespace()}
		o.kind = gvk.Kind
		return o.create, o.locate(ctx, ref)
	case "patch", "delete":
		ref, err := reference(o.args.ObjectReference)
		if err != nil {
			return nil, err
		}
		act := o.delete
		if o.args.Operation == "patch" {
			act = o.patch
			if o.args.Spec == "" {
				return nil, fault.New(fault.User, "the argument spec, the patch, is required")
			}
		} else if o.args.Spec != "" {
			return nil, fault.New(fault.User, "spec is for create and patch; the object to delete is objectReference")
		}
		return act, o.locate(ctx, ref)
	}
	return nil, fault.New(fault.User, "operation is create, patch or delete")
}

// locate finds the resource and the namespace of an object.
func (o *operation) locate(ctx context.Context, ref plan.Reference) error {
	o.name, o.namespace = ref.Name, orDefault(ref.Namespace, o.args.Namespace)
	return cluster.Insist(ctx, o.env.Heartbeat, func(context.Context) error {
		gvr, err := o.c.Resource(ref)
		if err != nil {
			return err
		}
		o.gvr = gvr
		in, err := o.c.Namespaced(gvr)
		if err == nil && !in {
			o.namespace = ""
		}
		return err
	})
}

// one reads exactly one object.
func one(text string) (*unstructured.Unstructured, error) {
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	var found *unstructured.Unstructured
	for {
		var m map[string]any
		err := dec.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(m) == 0 {
			continue
		}
		if found != nil {
			return nil, errors.New("it holds more than one object; use a phase for each")
		}
		found = &unstructured.Unstructured{Object: m}
	}
	if found == nil {
		return nil, errors.New("it holds no object")
	}
	if found.GetKind() == "" || found.GetAPIVersion() == "" || found.GetName()+found.GetGenerateName() == "" {
		return nil, errors.New("an object has apiVersion, kind, and metadata.name or metadata.generateName")
	}
	return found, nil
}

func reference(m map[string]any) (plan.Reference, error) {
	var ref plan.Reference
	for k, into := range map[string]*string{
		"name": &ref.Name, "namespace": &ref.Namespace, "kind": &ref.Kind, "apiVersion": &ref.APIVersion, "group": &ref.Group, "resource": &ref.Resource,
	} {
		if v, ok := m[k]; ok && v != nil {
			*into = fmt.Sprint(v)
		}
	}
	if ref.Name == "" || ref.Resource == "" && ref.Kind == "" {
		return ref, fault.New(fault.User, "objectReference: give name, and resource with apiVersion and group, or kind")
	}
	return ref, nil
}

func (o *operation) create(ctx context.Context) (function.Outputs, error) {
	made := o.object.DeepCopy()
	annotations := made.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[cluster.AnnotationCall], annotations[cluster.AnnotationRun] = o.env.Key, o.env.Run.ID
	made.SetAnnotations(annotations)
	r := o.c.Dynamic.Resource(o.gvr).Namespace(o.namespace)
	err := cluster.Insist(ctx, o.env.Heartbeat, func(ctx context.Context) error {
		_, err := r.Create(ctx, made, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		there, getErr := r.Get(ctx, o.name, metav1.GetOptions{})
		if getErr == nil && there.GetAnnotations()[cluster.AnnotationCall] == o.env.Key {
			return nil // made by this call, which did not hear the answer
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return o.outputs(), nil
}

func (o *operation) patch(ctx context.Context) (function.Outputs, error) {
	body, err := yaml.ToJSON([]byte(o.args.Spec))
	if err != nil {
		return nil, fault.New(fault.User, "spec: %w", err)
	}
	kind := types.StrategicMergePatchType
	err = cluster.Insist(ctx, o.env.Heartbeat, func(ctx context.Context) error {
		there, err := o.c.Dynamic.Resource(o.gvr).Namespace(o.namespace).Patch(ctx, o.name, kind, body, metav1.PatchOptions{})
		if apierrors.IsUnsupportedMediaType(err) { // a custom resource has no strategy of merging
			kind = types.MergePatchType
			there, err = o.c.Dynamic.Resource(o.gvr).Namespace(o.namespace).Patch(ctx, o.name, kind, body, metav1.PatchOptions{})
		}
		if err == nil {
			o.kind = there.GetKind()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return o.outputs(), nil
}

func (o *operation) delete(ctx context.Context) (function.Outputs, error) {
	r := o.c.Dynamic.Resource(o.gvr).Namespace(o.namespace)
	again := o.env.Attempt > 1
	propagation := metav1.DeletePropagationBackground
	var uid types.UID
	err := cluster.Insist(ctx, o.env.Heartbeat, func(ctx context.Context) error {
		there, err := r.Get(ctx, o.name, metav1.GetOptions{})
		if err == nil {
			uid, o.kind = there.GetUID(), there.GetKind()
			err = r.Delete(ctx, o.name, metav1.DeleteOptions{PropagationPolicy: &propagation, Preconditions: &metav1.Preconditions{UID: &uid}})
		}
		if apierrors.IsNotFound(err) && again {
			return nil // by an attempt whose answer was not heard
		}
		again = true
		return err
	})
	if err != nil {
		return nil, err
	}
	err = cluster.Until(ctx, o.c, cluster.Watched{Resource: o.gvr, Namespace: o.namespace, Name: o.name, Note: o.env.Heartbeat},
		func(left []unstructured.Unstructured) (string, error) {
			if len(left) == 0 || left[0].GetUID() != uid {
				return "", nil // or another one of its name by now
			}
			if f := left[0].GetFinalizers(); len(f) > 0 {
				return fmt.Sprintf("it is still there; its finalizers %v hold it", f), nil
			}
			return "it is still there", nil
		})
	if err != nil {
		return nil, err
	}
	return o.outputs(), nil
}

func (o *operation) outputs() function.Outputs {
	return function.Outputs{
		"apiVersion": o.gvr.Version, "group": o.gvr.Group, "resource": o.gvr.Resource, "kind": o.kind, "name": o.name, "namespace": o.namespace,
	}
}
