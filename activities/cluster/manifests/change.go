package manifests

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/blueprints/fault"
)

// Changes are made to manifests for another place.
type Changes struct {
	From, Into     string // namespaces
	StorageClasses map[string]string
	Images         map[string]string
	Transforms     []Transform
}

// Transform is a JSON patch (RFC 6902) of the objects that it selects.
type Transform struct {
	Kind  string           `arg:"kind"`
	Name  string           `arg:"name"` // a pattern (path.Match)
	Patch []map[string]any `arg:"patch"`
}

// Apply returns the changed object. A transform whose test fails leaves it as
// it is.
func (c *Changes) Apply(o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out := o.DeepCopy()
	if out.GetNamespace() != "" {
		out.SetNamespace(c.Into)
	}
	if out.GetKind() == "RoleBinding" {
		each(out.Object, func(s map[string]any) {
			if s["namespace"] == c.From {
				s["namespace"] = c.Into
			}
		}, "subjects")
	}
	c.classes(out)
	for _, spec := range podSpecs(out.Object) {
		for _, list := range []string{"containers", "initContainers"} {
			each(spec, func(m map[string]any) {
				if image, ok := m["image"].(string); ok {
					m["image"] = renamed(c.Images, image)
				}
			}, list)
		}
	}
	for i := range c.Transforms {
		changed, err := c.Transforms[i].apply(out)
		if err != nil {
			return nil, fault.New(fault.User, "transform %d on %s %s: %w", i+1, o.GetKind(), o.GetName(), err)
		}
		out = changed
	}
	return out, nil
}

func (c *Changes) classes(o *unstructured.Unstructured) {
	set := func(spec map[string]any) {
		if class, ok := spec["storageClassName"].(string); ok {
			spec["storageClassName"] = renamed(c.StorageClasses, class)
		}
	}
	if spec, ok := o.Object["spec"].(map[string]any); ok {
		if o.GetKind() == "PersistentVolumeClaim" {
			set(spec)
		}
		each(spec, func(t map[string]any) {
			if s, ok := t["spec"].(map[string]any); ok {
				set(s)
			}
		}, "volumeClaimTemplates")
	}
}

// podSpecs are the pod specs of an object, wherever its kind has one.
func podSpecs(o map[string]any) (specs []map[string]any) {
	for _, at := range [][]string{{"spec"}, {"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}} {
		v, _, _ := unstructured.NestedFieldNoCopy(o, at...)
		if spec, ok := v.(map[string]any); ok {
			if _, ok := spec["containers"].([]any); ok {
				specs = append(specs, spec)
			}
		}
	}
	return specs
}

// renamed is the new name of an old one. A name that ends in * stands for all
// that begin so.
func renamed(names map[string]string, name string) string {
	if to, ok := names[name]; ok {
		return to
	}
	best := ""
	for from := range names {
		if start, ok := strings.CutSuffix(from, "*"); ok && strings.HasPrefix(name, start) && len(from) > len(best) {
			best = from
		}
	}
	if best == "" {
		return name
	}
	to := names[best]
	if start, ok := strings.CutSuffix(to, "*"); ok {
		return start + strings.TrimPrefix(name, strings.TrimSuffix(best, "*"))
	}
	return to
}

func (t *Transform) apply(o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if t.Kind != "" && !strings.EqualFold(t.Kind, o.GetKind()) {
		return o, nil
	}
	if t.Name != "" {
		if ok, err := path.Match(t.Name, o.GetName()); err != nil || !ok {
			return o, err
		}
	}
	text, err := json.Marshal(t.Patch)
	if err != nil {
		return nil, err
	}
	patch, err := jsonpatch.DecodePatch(text)
	if err != nil {
		return nil, err
	}
	before, err := o.MarshalJSON()
	if err != nil {
		return nil, err
	}
	after, err := patch.Apply(before)
	if errors.Is(err, jsonpatch.ErrTestFailed) {
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(after); err != nil {
		return nil, fmt.Errorf("what is left is no object: %w", err)
	}
	return out, nil
}
