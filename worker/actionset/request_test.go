package actionset

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
)

func parse(t *testing.T, text string) *set {
	t.Helper()
	o := map[string]any{}
	require.NoError(t, yaml.Unmarshal([]byte(text), &o))
	return read(&unstructured.Unstructured{Object: o})
}

func TestRequest(t *testing.T) {
	s := parse(t, `
spec:
  actions:
  - name: backup
    blueprint: mysql
    object: {kind: StatefulSet, name: mysql, namespace: shop}
    options: {tables: all}
    secrets: {root: {name: mysql, namespace: shop}, own: {name: here}}
    configMaps: {where: {name: place}}
    profile: {apiVersion: v1alpha1, kind: profile, name: s3, namespace: kanister}
    artifacts: {dump: {keyValue: {path: /a}, kopiaSnapshot: snap}}
    podOverride: {terminationGracePeriodSeconds: 5}
    podLabels: {team: a}
    podAnnotations: {note: b}
    preferredVersion: v0.0.0
`)
	require.NoError(t, s.wrong)
	r, err := s.spec.Actions[0].request("kanister", "b-1", "queue")
	require.NoError(t, err)
	assert.Equal(t, plan.Request{
		Blueprint: "mysql", Action: "backup", Target: plan.Target{Kind: "StatefulSet", Name: "mysql", Namespace: "shop", TaskQueue: "queue"},
		Options: plan.Values{"tables": "all"},
		Secrets: map[string]plan.Reference{
			"root": {Kind: "Secret", Name: "mysql", Namespace: "shop"},
			"own":  {Kind: "Secret", Name: "here", Namespace: "kanister"},
		},
		ConfigMaps:  map[string]plan.Reference{"where": {Kind: "ConfigMap", Name: "place", Namespace: "kanister"}},
		Profile:     &plan.Reference{APIVersion: "v1alpha1", Kind: "profile", Name: "s3", Namespace: "kanister"},
		Artifacts:   map[string]plan.Artifact{"dump": {KeyValue: map[string]string{"path": "/a"}, KopiaSnapshot: "snap"}},
		Pod:         &plan.Pod{Override: plan.Values{"terminationGracePeriodSeconds": int64(5)}, Labels: map[string]string{"team": "a"}, Annotations: map[string]string{"note": "b"}},
		Unpublished: true, RequestedBy: "actionset kanister/b-1",
	}, r)
}

func TestTargets(t *testing.T) {
	for name, c := range map[string]struct {
		object object
		want   plan.Target
		says   string
	}{
		"a kind":                          {object{Kind: "pvc", Name: "a", Namespace: "b"}, plan.Target{Kind: "pvc", Name: "a", Namespace: "b"}, ""},
		"a namespace by its name":         {object{Kind: "namespace", Name: "a"}, plan.Target{Kind: "namespace", Name: "a"}, ""},
		"a namespace by its namespace":    {object{Kind: "Namespace", Namespace: "a"}, plan.Target{Kind: "Namespace", Name: "a", Namespace: "a"}, ""},
		"a resource as kanctl writes it":  {object{Group: "apps/", APIVersion: "v1", Resource: "daemonsets", Name: "a", Namespace: "b"}, plan.Target{Kind: "daemonsets", Group: "apps", APIVersion: "v1", Resource: "daemonsets", Name: "a", Namespace: "b"}, ""},
		"a resource with a kind":          {object{Kind: "Cassandra", Group: "k8ssandra.io", APIVersion: "v1", Resource: "cassandras", Name: "a"}, plan.Target{Kind: "Cassandra", Group: "k8ssandra.io", APIVersion: "v1", Resource: "cassandras", Name: "a"}, ""},
		"unstructured":                    {object{Kind: "unstructured", APIVersion: "v1", Resource: "secrets", Name: "a"}, plan.Target{Kind: "secrets", APIVersion: "v1", Resource: "secrets", Name: "a"}, ""},
		"unstructured without a resource": {object: object{Kind: "unstructured", Name: "a"}, says: "give a kind"},
		"a kind that nobody knows":        {object: object{Kind: "Postgres", APIVersion: "v1", Name: "a"}, says: `kind "Postgres" is none of`},
		"no name":                         {object: object{Kind: "Deployment", Namespace: "a"}, says: "name is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			a := action{Name: "backup", Blueprint: "bp", Object: c.object}
			r, err := a.request("kanister", "a", "")
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, c.want, r.Target)
		})
	}
}

func TestPreferredVersions(t *testing.T) {
	for v, ok := range map[string]bool{"": true, "v0.0.0": true, "1.2.3": true, "v1.0.0-alpha": true, "v1": true, "newest": false, "v1.x": false} {
		err := (&action{Name: "a", Blueprint: "b", Object: object{Kind: "pvc", Name: "c"}, PreferredVersion: v}).check()
		assert.Equal(t, ok, err == nil, "%q: %v", v, err)
	}
}

func TestWhatIsNoActionSet(t *testing.T) {
	assert.ErrorContains(t, parse(t, `{status: {state: pending}}`).wrong, "spec is missing")
	assert.ErrorContains(t, parse(t, `{spec: {actions: [{name: [a]}]}}`).wrong, "spec is not understood")
	s := parse(t, `{spec: {actions: []}, status: {state: [a]}}`)
	require.NoError(t, s.wrong)
	assert.Nil(t, s.status)
}

// The phases that a status lists are those of the plan, a freeze's too.
func TestPhasesAreListed(t *testing.T) {
	text := `
apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: frozen}
actions:
  backup:
    kind: host
    phases:
    - {name: look, func: Exec, args: {command: [look]}}
    - name: quiesce
      freeze:
        maxFreeze: 10s
        do: {func: Exec, args: {command: [lock]}}
        undo: {func: Exec, args: {command: [unlock]}}
      phases:
      - {name: cut, func: Exec, args: {command: [cut]}}
    deferPhase: {func: Exec, args: {command: [clean]}}
`
	r := plan.Request{Blueprint: "frozen", Action: "backup", Target: plan.Target{Kind: "host", Name: "a"}}
	phases, deferred, err := prepare(&r, []byte(text), catalogue.Default())
	require.NoError(t, err)
	var names []string
	for _, p := range phases {
		names = append(names, p.Name)
		assert.Equal(t, statePending, p.State)
	}
	assert.Equal(t, []string{"look", "quiesce", "cut"}, names)
	assert.Equal(t, "deferPhase", deferred.Name, "one without a name is called so")
	assert.Equal(t, text, r.BlueprintText)

	r.Action = "restore"
	_, _, err = prepare(&r, []byte(text), catalogue.Default())
	assert.ErrorContains(t, err, `has no action "restore"; it has backup`)
}

func TestIDs(t *testing.T) {
	namespace, name, uid, ok := parseID(id("kanister", "b.1", "u-2", 3))
	assert.Equal(t, []any{"kanister", "b.1", "u-2", true}, []any{namespace, name, uid, ok})
	for _, other := range []string{"backup/a/b/c/0", "actionset/a", "actionset/a/b/c/d/0"} {
		_, _, _, ok := parseID(other)
		assert.False(t, ok, other)
	}
}
