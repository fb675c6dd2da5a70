package wait

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/jsonpath"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

// object is one that conditions are on, as it was last seen.
type object struct {
	c    *cluster.Cluster
	ref  plan.Reference
	note func(string)

	mu   sync.Mutex
	last map[string]any // nil: it is not there
	why  string         // nothing is known of it
}

// object returns the one of that reference; several conditions may share it.
func (w *waiter) object(c *cluster.Cluster, m map[string]any) (*object, error) {
	var ref plan.Reference
	for k, v := range m {
		s := fmt.Sprint(v)
		switch k {
		case "name":
			ref.Name = s
		case "namespace":
			ref.Namespace = s
		case "kind":
			ref.Kind = s
		case "apiVersion":
			ref.APIVersion = s
		case "group":
			ref.Group = s
		case "resource":
			ref.Resource = s
		default:
			return nil, fault.New(fault.User, "objectReference: unknown field %q", k)
		}
	}
	if ref.Name == "" {
		return nil, fault.New(fault.User, "objectReference: name is missing")
	}
	key := fmt.Sprintf("%+v", ref)
	o := w.objects[key]
	if o == nil {
		o = &object{c: c, ref: ref, note: w.env.Heartbeat, why: "not seen yet"}
		w.objects[key] = o
	}
	return o, nil
}

func (o *object) String() string {
	what := o.ref.Resource
	if what == "" {
		what = o.ref.Kind
	}
	return strings.TrimSpace(what + " " + strings.TrimPrefix(o.ref.Namespace+"/"+o.ref.Name, "/"))
}

// watch keeps the object up to date until the context ends, or the API refuses.
func (o *object) watch(ctx context.Context, changed chan<- struct{}) error {
	gvr, err := o.resource(ctx)
	if err != nil {
		return err
	}
	namespace := o.ref.Namespace
	if gvr.Resource == "namespaces" && gvr.Group == "" {
		namespace = ""
	}
	err = cluster.Until(ctx, o.c, cluster.Watched{Resource: gvr, Namespace: namespace, Name: o.ref.Name, Note: o.note},
		func(items []unstructured.Unstructured) (string, error) {
			o.mu.Lock()
			o.last, o.why = nil, ""
			if len(items) > 0 {
				o.last = items[0].Object
			}
			o.mu.Unlock()
			select {
			case changed <- struct{}{}:
			default:
			}
			return "the conditions", nil
		})
	if ctx.Err() == nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	return nil
}

// resource finds what the reference means; a custom resource may be defined
// only while it is waited for.
func (o *object) resource(ctx context.Context) (gvr schema.GroupVersionResource, err error) {
	for {
		err = cluster.Insist(ctx, o.note, func(context.Context) error {
			gvr, err = o.c.Resource(o.ref)
			return err
		})
		if err == nil || o.ref.Kind == "" && o.ref.Resource == "" {
			return gvr, err
		}
		o.mu.Lock()
		o.why = err.Error()
		o.mu.Unlock()
		select {
		case <-ctx.Done():
			return gvr, err
		case <-time.After(2 * time.Second):
		}
	}
}

// evaluation prints a condition's template for an object.
type evaluation func(text string) (func(object map[string]any) (string, error), error)

type objectCondition struct {
	on   *object
	text string
	eval func(map[string]any) (string, error)
}

func newObjectCondition(o *object, text string, how evaluation) (condition, error) {
	if text == "" {
		return nil, fault.New(fault.User, "condition is missing: a template that prints true")
	}
	eval, err := how(text)
	if err != nil {
		return nil, fault.New(fault.User, "condition: %w", err)
	}
	return &objectCondition{on: o, text: text, eval: eval}, nil
}

func (c *objectCondition) unmet(context.Context) string {
	c.on.mu.Lock()
	last, why := c.on.last, c.on.why
	c.on.mu.Unlock()
	switch {
	case why != "":
		return fmt.Sprintf("%s: %s", c.on, why)
	case last == nil:
		return fmt.Sprintf("%s is not there", c.on)
	}
	printed, err := c.eval(last)
	if err != nil {
		return fmt.Sprintf("%s: %v", c.on, err)
	}
	if printed = strings.TrimSpace(printed); printed != "true" {
		return fmt.Sprintf("%s: the condition %s is %q", c.on, strings.Join(strings.Fields(c.text), " "), printed)
	}
	return ""
}

// overObject evaluates as kubectl's go-template does (Kanister's WaitV2).
func overObject(text string) (func(map[string]any) (string, error), error) {
	t, err := templates.Parse(text)
	if err != nil {
		return nil, err
	}
	return func(o map[string]any) (string, error) {
		return t.Execute(o, "default", templates.NewBudget())
	}, nil
}

// path is a JSON path as Kanister's Wait writes it in a condition: { $.x }.
var path = regexp.MustCompile(`\{\s*\$([^{}]*)\}`)

// withPaths puts the values of the JSON paths in a template's text into it, and
// then runs it (Kanister's Wait).
func withPaths(text string) (func(map[string]any) (string, error), error) {
	for _, m := range path.FindAllString(text, -1) {
		if _, err := parsePath(m); err != nil {
			return nil, fmt.Errorf("%s: %w", m, err)
		}
	}
	return func(o map[string]any) (string, error) {
		var failed error
		filled := path.ReplaceAllStringFunc(text, func(m string) string {
			j, err := parsePath(m)
			var out bytes.Buffer
			if err == nil {
				err = j.Execute(&out, o)
			}
			if err != nil {
				failed = fmt.Errorf("%s: %w", m, err)
			}
			return out.String()
		})
		if failed != nil {
			return "", failed
		}
		t, err := templates.Parse(filled)
		if err != nil {
			return "", err
		}
		return t.Execute(nil, "zero", templates.NewBudget())
	}, nil
}

func parsePath(text string) (*jsonpath.JSONPath, error) {
	j := jsonpath.New("condition")
	return j, j.Parse("{" + strings.TrimSpace(strings.Trim(text, "{}")) + "}")
}
