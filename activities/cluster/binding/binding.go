// Package binding finds the blueprint that is bound to an object of a cluster:
// by an annotation of it, or by a BlueprintBinding that selects it, Thaw's own
// or Kasten K10's; and the text of a blueprint that is a resource of the
// cluster. Start with List and For.
package binding

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// The annotations that bind a blueprint to an object.
const (
	// Annotation names the blueprint.
	Annotation = "thaw.dev/blueprint"
	// AnnotationKanister is Kanister's, as K10 reads it. Annotation wins.
	AnnotationKanister = "kanister.kasten.io/blueprint"
	// AnnotationOptions are the action's options, as JSON.
	AnnotationOptions = "thaw.dev/options"
	// AnnotationSecrets are the action's secrets, as JSON: the blueprint's name
	// of one to the name of a Secret in the object's namespace.
	AnnotationSecrets = "thaw.dev/secrets" //nolint:gosec // a name
)

// Bound is a blueprint that is bound to an object.
type Bound struct {
	Blueprint string
	Options   plan.Values
	Secrets   map[string]plan.Reference
	By        string // the binding, or the annotation
}

// Resources of bindings and blueprints, Thaw's own first.
var (
	bindings = []schema.GroupVersionResource{
		{Group: "thaw.dev", Version: "v1alpha1", Resource: "blueprintbindings"},
		{Group: "config.kio.kasten.io", Version: "v1alpha1", Resource: "blueprintbindings"},
	}
	blueprints = []schema.GroupVersionResource{
		{Group: "thaw.dev", Version: "v1alpha1", Resource: "blueprints"},
		{Group: "cr.kanister.io", Version: "v1alpha1", Resource: "blueprints"},
	}
)

// Bindings are those of a cluster, the earliest first.
type Bindings struct{ all []rule }

type rule struct {
	name    string
	created time.Time
	spec    spec
}

type spec struct {
	BlueprintRef struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"blueprintRef"`
	Disabled  bool `json:"disabled"`
	Resources struct {
		MatchAll []requirement `json:"matchAll"`
		MatchAny []requirement `json:"matchAny"`
	} `json:"resources"`
	// What follows is Thaw's own.
	Options plan.Values               `json:"options"`
	Secrets map[string]plan.Reference `json:"secrets"`
}

// requirement is one constraint: exactly one of its fields is set.
type requirement struct {
	Type        *kinds `json:"type"`
	Namespace   *names `json:"namespace"`
	Name        *names `json:"name"`
	Labels      *pairs `json:"labels"`
	Annotations *pairs `json:"annotations"`
}

type kinds struct {
	Operator string `json:"operator"`
	Values   []kind `json:"values"`
}

type kind struct {
	Group    string `json:"group"`
	Version  string `json:"version"`
	Resource string `json:"resource"`
	Name     string `json:"name"`
}

type names struct {
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

type pairs struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"`
	Values   []string `json:"values"`
}

// List reads the bindings of a cluster. One that cannot be understood is named
// in warnings: it binds nothing.
func List(ctx context.Context, c *cluster.Cluster) (b Bindings, warnings []string, err error) {
	for _, r := range bindings {
		var list *unstructured.UnstructuredList
		err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
			list, err = c.Dynamic.Resource(r).List(ctx, metav1.ListOptions{})
			return err
		})
		switch {
		case apierrors.IsNotFound(err), meta.IsNoMatchError(err): // no such resource here
			continue
		case apierrors.IsForbidden(err):
			warnings = append(warnings, fmt.Sprintf("bindings are not read: %v", err))
			continue
		case err != nil:
			return b, nil, fmt.Errorf("list %s: %w", r.GroupResource(), err)
		}
		for i := range list.Items {
			one, err := parse(&list.Items[i])
			if err != nil {
				warnings = append(warnings, err.Error())
				continue
			}
			b.all = append(b.all, *one)
		}
	}
	slices.SortStableFunc(b.all, func(x, y rule) int { return x.created.Compare(y.created) })
	return b, warnings, nil
}

func parse(o *unstructured.Unstructured) (*rule, error) {
	r := &rule{name: fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName()), created: o.GetCreationTimestamp().Time}
	text, err := json.Marshal(o.Object["spec"])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r.spec); err != nil {
		return nil, fmt.Errorf("%s is not understood, and binds nothing: %w", r.name, err)
	}
	all := append(slices.Clone(r.spec.Resources.MatchAll), r.spec.Resources.MatchAny...)
	if len(all) == 0 {
		return nil, fmt.Errorf("%s has no requirement, and binds nothing", r.name)
	}
	if r.spec.BlueprintRef.Name == "" {
		return nil, fmt.Errorf("%s names no blueprint", r.name)
	}
	for _, q := range all {
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("%s is not understood, and binds nothing: %w", r.name, err)
		}
	}
	return r, nil
}

func (q requirement) check() error {
	given, operator, allowed := 0, "", []string{"In", "NotIn"}
	if q.Type != nil {
		given, operator = given+1, q.Type.Operator
	}
	for _, n := range []*names{q.Namespace, q.Name} {
		if n != nil {
			given, operator = given+1, n.Operator
		}
	}
	for _, p := range []*pairs{q.Labels, q.Annotations} {
		if p != nil {
			given, operator, allowed = given+1, p.Operator, []string{"In", "NotIn", "Exists", "DoesNotExist"}
		}
	}
	if given != 1 {
		return fmt.Errorf("a requirement is exactly one of type, namespace, name, labels, annotations")
	}
	if !slices.Contains(allowed, operator) {
		return fmt.Errorf("operator %q; want one of %s", operator, strings.Join(allowed, ", "))
	}
	return nil
}

// For returns the blueprint that is bound to an object, or nil: a binding wins
// over an annotation, and of several bindings the earliest (K10's rules).
func (b Bindings) For(o *unstructured.Unstructured) (*Bound, error) {
	annotations := o.GetAnnotations()
	bound := &Bound{Options: plan.Values{}, Secrets: map[string]plan.Reference{}}
	for i := range b.all {
		r := &b.all[i]
		if r.spec.Disabled || !r.selects(o) {
			continue
		}
		bound.Blueprint, bound.By = r.spec.BlueprintRef.Name, r.name
		for k, v := range r.spec.Options {
			bound.Options[k] = v
		}
		for k, v := range r.spec.Secrets {
			if v.Namespace == "" {
				v.Namespace = o.GetNamespace()
			}
			bound.Secrets[k] = v
		}
		break
	}
	for _, name := range []string{Annotation, AnnotationKanister} {
		if bound.Blueprint == "" && annotations[name] != "" {
			bound.Blueprint, bound.By = annotations[name], name
		}
	}
	if bound.Blueprint == "" {
		return nil, nil
	}
	if text := annotations[AnnotationOptions]; text != "" {
		if err := json.Unmarshal([]byte(text), &bound.Options); err != nil {
			return nil, annotationError(o, AnnotationOptions, err)
		}
	}
	if text := annotations[AnnotationSecrets]; text != "" {
		var secrets map[string]string
		if err := json.Unmarshal([]byte(text), &secrets); err != nil {
			return nil, annotationError(o, AnnotationSecrets, err)
		}
		for k, name := range secrets {
			bound.Secrets[k] = plan.Reference{Kind: "Secret", Name: name, Namespace: o.GetNamespace()}
		}
	}
	return bound, nil
}

func annotationError(o *unstructured.Unstructured, name string, err error) error {
	return fault.New(fault.User, "%s %s/%s: annotation %s is no JSON object: %w", o.GetKind(), o.GetNamespace(), o.GetName(), name, err)
}

func (r *rule) selects(o *unstructured.Unstructured) bool {
	for _, q := range r.spec.Resources.MatchAll {
		if !q.holds(o) {
			return false
		}
	}
	return len(r.spec.Resources.MatchAny) == 0 || slices.ContainsFunc(r.spec.Resources.MatchAny, func(q requirement) bool { return q.holds(o) })
}

func (q requirement) holds(o *unstructured.Unstructured) bool {
	switch {
	case q.Type != nil:
		in := slices.ContainsFunc(q.Type.Values, func(k kind) bool { return k.is(o) })
		return in == (q.Type.Operator == "In")
	case q.Namespace != nil:
		return slices.Contains(q.Namespace.Values, o.GetNamespace()) == (q.Namespace.Operator == "In")
	case q.Name != nil:
		return slices.Contains(q.Name.Values, o.GetName()) == (q.Name.Operator == "In")
	case q.Labels != nil:
		return q.Labels.hold(o.GetLabels())
	case q.Annotations != nil:
		return q.Annotations.hold(o.GetAnnotations())
	}
	return false
}

// is compares by the resource's name, which is the plural of the kind.
func (k kind) is(o *unstructured.Unstructured) bool {
	gvk := o.GroupVersionKind()
	plural, _ := meta.UnsafeGuessKindToResource(gvk)
	return (k.Group == "" && k.Resource == "" || k.Group == gvk.Group) &&
		(k.Version == "" || k.Version == gvk.Version) &&
		(k.Resource == "" || k.Resource == plural.Resource) &&
		(k.Name == "" || k.Name == o.GetName())
}

func (p *pairs) hold(m map[string]string) bool {
	v, ok := m[p.Key]
	switch p.Operator {
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	case "In":
		return ok && slices.Contains(p.Values, v)
	}
	return !ok || !slices.Contains(p.Values, v)
}

// homes are the namespaces where Kanister's and K10's blueprints live.
var homes = []string{"kasten-io", "kanister"}

// Blueprint returns the text of a blueprint that is a resource of the cluster:
// in the target's namespace, in the worker's, or where Kanister and K10 keep
// theirs. It returns nil where there is none of that name.
func Blueprint(ctx context.Context, c *cluster.Cluster, name, namespace string) (text []byte, where string, err error) {
	for _, ns := range append([]string{namespace, c.Namespace}, homes...) {
		if ns == "" {
			continue
		}
		for _, r := range blueprints {
			var o *unstructured.Unstructured
			err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
				o, err = c.Dynamic.Resource(r).Namespace(ns).Get(ctx, name, metav1.GetOptions{})
				return err
			})
			if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || meta.IsNoMatchError(err) {
				continue
			}
			if err != nil {
				return nil, "", fmt.Errorf("blueprint %s/%s: %w", ns, name, err)
			}
			text, err := Text(o)
			return text, fmt.Sprintf("blueprint %s/%s of the cluster", ns, name), err
		}
	}
	return nil, "", nil
}

// Text is a blueprint resource as a blueprint author writes it: of the
// metadata only the name.
func Text(o *unstructured.Unstructured) ([]byte, error) {
	content := map[string]any{}
	for k, v := range o.Object {
		if k != "metadata" && k != "status" {
			content[k] = v
		}
	}
	content["metadata"] = map[string]any{"name": o.GetName()}
	text, err := json.MarshalIndent(content, "", "  ")
	if err != nil {
		return nil, fault.New(fault.Permanent, "blueprint %s: %w", o.GetName(), err)
	}
	return text, nil // YAML is a superset of it
}
