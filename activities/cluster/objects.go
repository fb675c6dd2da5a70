package cluster

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// Convert fills a struct from an object.
func Convert(o *unstructured.Unstructured, into any) error {
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into); err != nil {
		return fault.New(fault.Permanent, "%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return nil
}

// short are Kanister's kinds that need no group, version and resource.
var short = map[string]schema.GroupVersionResource{
	"statefulset":           {Group: "apps", Version: "v1", Resource: "statefulsets"},
	"deployment":            {Group: "apps", Version: "v1", Resource: "deployments"},
	"deploymentconfig":      {Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"},
	"pvc":                   {Version: "v1", Resource: "persistentvolumeclaims"},
	"persistentvolumeclaim": {Version: "v1", Resource: "persistentvolumeclaims"},
	"namespace":             {Version: "v1", Resource: "namespaces"},
	"secret":                {Version: "v1", Resource: "secrets"},
	"configmap":             {Version: "v1", Resource: "configmaps"},
	"pod":                   {Version: "v1", Resource: "pods"},
	"service":               {Version: "v1", Resource: "services"},
}

// Resource finds the resource that a reference means: by its group, version and
// resource as Kanister writes them (apiVersion is the version alone, or
// group/version), or by its kind.
func (c *Cluster) Resource(ref plan.Reference) (schema.GroupVersionResource, error) {
	group, version := ref.Group, ref.APIVersion
	if g, v, ok := strings.Cut(version, "/"); ok {
		group, version = g, v
	}
	if ref.Resource != "" && version != "" {
		return schema.GroupVersionResource{Group: group, Version: version, Resource: ref.Resource}, nil
	}
	if gvr, ok := short[strings.ToLower(ref.Kind)]; ok && ref.Resource == "" {
		return gvr, nil
	}
	if ref.Resource != "" {
		gvr, err := c.mapper.ResourceFor(schema.GroupVersionResource{Group: group, Resource: ref.Resource})
		return gvr, c.unknown(err, ref)
	}
	if ref.Kind == "" {
		return schema.GroupVersionResource{}, fault.New(fault.User, "%s: give apiVersion, group and resource, or kind and apiVersion", refText(ref))
	}
	var versions []string
	if version != "" {
		versions = append(versions, version)
	}
	m, err := c.mapper.RESTMapping(schema.GroupKind{Group: group, Kind: ref.Kind}, versions...)
	if err != nil {
		return schema.GroupVersionResource{}, c.unknown(err, ref)
	}
	return m.Resource, nil
}

func (c *Cluster) unknown(err error, ref plan.Reference) error {
	if err == nil {
		return nil
	}
	c.mapper.Reset() // a CRD may be made meanwhile
	if meta.IsNoMatchError(err) {
		return fault.New(fault.User, "%s: the cluster knows no such resource: %w", refText(ref), err)
	}
	return err
}

// Namespaced reports whether objects of a resource are in namespaces.
func (c *Cluster) Namespaced(gvr schema.GroupVersionResource) (bool, error) {
	gvk, err := c.mapper.KindFor(gvr)
	if err != nil {
		return false, c.unknown(err, plan.Reference{Group: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource})
	}
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return false, c.unknown(err, plan.Reference{Group: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource})
	}
	return m.Scope.Name() == meta.RESTScopeNameNamespace, nil
}

// Get returns the object that a reference names. note may be nil.
func (c *Cluster) Get(ctx context.Context, ref plan.Reference, note func(string)) (*unstructured.Unstructured, error) {
	if err := c.Need(); err != nil {
		return nil, err
	}
	var o *unstructured.Unstructured
	err := Insist(ctx, note, func(ctx context.Context) error {
		gvr, err := c.Resource(ref)
		if err != nil {
			return err
		}
		namespace := ref.Namespace
		if gvr.Resource == "namespaces" && gvr.Group == "" {
			namespace = ""
		}
		o, err = c.Dynamic.Resource(gvr).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", refText(ref), err)
	}
	return o, nil
}

func refText(ref plan.Reference) string {
	what := ref.Kind
	if what == "" {
		what = ref.Resource
	}
	if what == "" {
		what = "object"
	}
	name := ref.Name
	if ref.Namespace != "" {
		name = ref.Namespace + "/" + name
	}
	return what + " " + name
}

// Secret returns the keys of a Secret.
func (c *Cluster) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	var data map[string][]byte
	err := Insist(ctx, nil, func(ctx context.Context) error {
		s, err := c.Kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			data = s.Data
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
	}
	return data, nil
}

// ConfigMap returns the keys of a ConfigMap.
func (c *Cluster) ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error) {
	var data map[string]string
	err := Insist(ctx, nil, func(ctx context.Context) error {
		m, err := c.Kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			data = m.Data
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("config map %s/%s: %w", namespace, name, err)
	}
	return data, nil
}
