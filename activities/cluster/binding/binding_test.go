package binding

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &o.Object))
	return o
}

func bindingOf(t *testing.T, name string, age time.Duration, spec string) *unstructured.Unstructured {
	o := object(t, "kind: BlueprintBinding\napiVersion: config.kio.kasten.io/v1alpha1\nmetadata: {name: "+name+", namespace: kasten-io}\nspec: "+spec)
	o.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-age)))
	return o
}

func TestBindings(t *testing.T) {
	ref := "{blueprintRef: {name: bound, namespace: kasten-io}, resources: "
	for name, c := range map[string]struct {
		spec string
		want bool
	}{
		"by type":                   {ref + "{matchAll: [{type: {operator: In, values: [{group: apps, resource: statefulsets}]}}]}}", true},
		"by another type":           {ref + "{matchAll: [{type: {operator: In, values: [{group: apps, resource: deployments}]}}]}}", false},
		"not by type":               {ref + "{matchAll: [{type: {operator: NotIn, values: [{group: apps, resource: deployments}]}}]}}", true},
		"by namespace":              {ref + "{matchAll: [{namespace: {operator: In, values: [shop, till]}}]}}", true},
		"by label":                  {ref + "{matchAll: [{labels: {key: app, operator: In, values: [pg]}}]}}", true},
		"by another label":          {ref + "{matchAll: [{labels: {key: app, operator: NotIn, values: [pg]}}]}}", false},
		"without an annotation":     {ref + "{matchAll: [{annotations: {key: kanister.kasten.io/blueprint, operator: DoesNotExist}}]}}", true},
		"all but one":               {ref + "{matchAll: [{labels: {key: app, operator: Exists}}, {name: {operator: In, values: [other]}}]}}", false},
		"any":                       {ref + "{matchAny: [{name: {operator: In, values: [other]}}, {name: {operator: In, values: [db]}}]}}", true},
		"all, and any that is none": {ref + "{matchAll: [{labels: {key: app, operator: Exists}}], matchAny: [{name: {operator: In, values: [other]}}]}}", false},
		"disabled":                  {"{disabled: true, blueprintRef: {name: bound}, resources: {matchAll: [{labels: {key: app, operator: Exists}}]}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := parse(bindingOf(t, "b", time.Hour, c.spec))
			require.NoError(t, err)
			bound, err := Bindings{all: []rule{*r}}.For(object(t, "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: shop, labels: {app: pg}}"))
			require.NoError(t, err)
			require.Equal(t, c.want, bound != nil)
			if c.want {
				require.Equal(t, "bound", bound.Blueprint)
			}
		})
	}
}

func TestBindingsThatAreNotUnderstood(t *testing.T) {
	for says, spec := range map[string]string{
		"no requirement":        "{blueprintRef: {name: b}, resources: {}}",
		"names no blueprint":    "{resources: {matchAll: [{name: {operator: In, values: [a]}}]}}",
		`operator "Like"`:       "{blueprintRef: {name: b}, resources: {matchAll: [{name: {operator: Like, values: [a]}}]}}",
		"exactly one of":        "{blueprintRef: {name: b}, resources: {matchAll: [{}]}}",
		`unknown field "match"`: "{blueprintRef: {name: b}, resources: {match: []}}",
	} {
		_, err := parse(bindingOf(t, "b", time.Hour, spec))
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "kasten-io/b")
	}
}

func TestAnnotations(t *testing.T) {
	with := func(annotations string) *unstructured.Unstructured {
		return object(t, "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: shop, annotations: {"+annotations+"}}")
	}
	for name, c := range map[string]struct{ annotations, want string }{
		"none":                       {"", ""},
		"Kanister's":                 {"kanister.kasten.io/blueprint: theirs", "theirs"},
		"our own wins":               {"kanister.kasten.io/blueprint: theirs, thaw.dev/blueprint: ours", "ours"},
		"an empty one binds nothing": {"kanister.kasten.io/blueprint: ''", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bound, err := Bindings{}.For(with(c.annotations))
			require.NoError(t, err)
			if c.want == "" {
				require.Nil(t, bound)
				return
			}
			require.Equal(t, c.want, bound.Blueprint)
		})
	}
	bound, err := Bindings{}.For(with(`thaw.dev/blueprint: b, thaw.dev/options: '{"keep": 3}', thaw.dev/secrets: '{"admin": "db-admin"}'`))
	require.NoError(t, err)
	require.Equal(t, plan.Values{"keep": int64(3)}, bound.Options)
	require.Equal(t, map[string]plan.Reference{"admin": {Kind: "Secret", Name: "db-admin", Namespace: "shop"}}, bound.Secrets)
	_, err = Bindings{}.For(with(`thaw.dev/blueprint: b, thaw.dev/options: 'keep=3'`))
	require.ErrorContains(t, err, "thaw.dev/options is no JSON object")
	require.Equal(t, fault.User, fault.Of(err))
}

// K10's rules: a binding wins over an annotation, and the earliest of several.
func TestWhichBindingWins(t *testing.T) {
	spec := func(bp string) string {
		return "{blueprintRef: {name: " + bp + "}, resources: {matchAll: [{namespace: {operator: In, values: [shop]}}]}}"
	}
	young, err := parse(bindingOf(t, "young", time.Minute, spec("second")))
	require.NoError(t, err)
	old, err := parse(bindingOf(t, "old", time.Hour, spec("first")))
	require.NoError(t, err)
	b := Bindings{all: []rule{*old, *young}}
	bound, err := b.For(object(t, "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: shop, annotations: {thaw.dev/blueprint: third}}"))
	require.NoError(t, err)
	require.Equal(t, "first", bound.Blueprint)
}

func TestTextOfABlueprintResource(t *testing.T) {
	text, err := Text(object(t, "apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: b, namespace: n, uid: u, resourceVersion: '1', managedFields: []}\nactions: {backup: {phases: []}}\nstatus: {}"))
	require.NoError(t, err)
	require.JSONEq(t, `{"apiVersion":"cr.kanister.io/v1alpha1","kind":"Blueprint","metadata":{"name":"b"},"actions":{"backup":{"phases":[]}}}`, string(text))
}
