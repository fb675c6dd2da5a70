package render_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
)

func params() *render.Params {
	p := render.FromScope(plan.Scope{
		Target:    plan.Target{Kind: "StatefulSet", Name: "db", Namespace: "shop", APIVersion: "apps/v1"},
		Options:   plan.Values{"n": int64(1000000)},
		Artifacts: map[string]plan.Artifact{"dump": {KeyValue: map[string]string{"path": "a/b"}, KopiaSnapshot: "{}"}},
		Time:      "2026-01-02T03:04:05.000000006Z",
	})
	p.Secrets["admin"] = render.Secret{Data: map[string][]byte{"password": []byte("hunter2")}}
	p.Profile = &render.Profile{Credential: render.Credential{Type: "keyPair", KeyPair: &render.KeyPair{ID: "AKIA", Secret: "hunter2"}}}
	p.Phases["find"] = &render.Phase{
		Output:  map[string]any{"path": "x", "count": int64(3000000)},
		Secrets: map[string]render.Secret{"pg": {Data: map[string][]byte{"k": []byte("hunter2")}}},
	}
	return p
}

func TestValue(t *testing.T) {
	in := map[string]any{
		"text":                 "{{ .StatefulSet.Name }}",
		"int":                  int64(1000000),
		"float":                1.5,
		"bool":                 true,
		"none":                 nil,
		"list":                 []any{"{{ .Options.n }}", int64(7), []any{"{{ .Phases.find.Output.count }}"}},
		"{{ .Target.Name }}-k": map[string]any{"a": "{{ .ArtifactsIn.dump.KeyValue.path }}{{ .ArtifactsIn.dump.KopiaSnapshot }}"},
		"object":               "{{ .Object.kind }}/{{ .Object.apiVersion }}/{{ .Object.metadata.namespace }}",
	}
	out, err := render.Value(in, params(), render.Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"text": "db", "int": int64(1000000), "float": 1.5, "bool": true, "none": nil,
		// A rendered string stays a string; integers never print as 1e+06.
		"list": []any{"1000000", int64(7), []any{"3000000"}},
		"db-k": map[string]any{"a": "a/b{}"}, "object": "StatefulSet/apps/v1/shop",
	}, out)
	require.Equal(t, "{{ .StatefulSet.Name }}", in["text"], "the input is not changed")
}

func TestErrorsNameEveryTemplateAndNoSecret(t *testing.T) {
	_, err := render.Value(map[string]any{
		"a": "{{ .Phases.later.Output.path }}",
		"b": []any{"ok", "{{ .Options.nothing }}"},
		"c": "{{ fail (.Secrets.admin.Data.password | toString) }}",
		"d": "{{ if }}",
	}, params(), render.Options{Path: "phase copy: args"})
	require.Error(t, err)
	require.Equal(t, fault.User, fault.Of(err))
	require.NotContains(t, err.Error(), "hunter2")
	for _, want := range []string{"phase copy: args.a: ", "phase copy: args.b[1]: ", `there is no "nothing"`, "phase copy: args.c: ", "phase copy: args.d: "} {
		require.ErrorContains(t, err, want)
	}
}

func TestIndexOfWhatIsNotThere(t *testing.T) {
	const text = `[{{ index .Object.metadata.labels "release" }}]`
	_, err := render.String(text, params(), render.Options{})
	require.ErrorContains(t, err, "is not there")
	got, err := render.String(text, params(), render.Options{Lenient: true})
	require.NoError(t, err)
	require.Equal(t, "[]", got)
	got, err = render.String(`[{{ index .Object.metadata.labels "release" | default "x" }}]`, params(), render.Options{})
	require.NoError(t, err)
	require.Equal(t, "[x]", got)
}

func TestOneValueHasOneBudget(t *testing.T) {
	many := make([]any, 1000)
	for i := range many {
		many[i] = "{{ range 200000 }}{{ end }}"
	}
	_, err := render.Value(many, params(), render.Options{})
	require.ErrorContains(t, err, "too long to render")
}

func TestTwoKeysThatRenderAlike(t *testing.T) {
	_, err := render.Value(map[string]any{"{{ .StatefulSet.Name }}": "1", "db": "2"}, params(), render.Options{})
	require.ErrorContains(t, err, "two keys")
}

func TestLenientRendersWhatIsMissingAsEmpty(t *testing.T) {
	for text, want := range map[string]string{
		"[{{ .Phases.later.Output.path }}]":                               "[]",
		"[{{ .Phases.find.Output.other }}{{ .Phases.find.Output.path }}]": "[x]",
		`[{{ (index .Phases "la-ter").Output.path }}]`:                    "[]",
		`[{{ index .Phases.later.Secrets.pg.Data "k" | toString }}]`:      "[]",
		"{{ if .Phases.later.Output.path }}yes{{ else }}no{{ end }}":      "no",
		"[{{ .DeferPhase.Output.at }}]":                                   "[]",
		"[{{ .Phases.later.ConfigMaps.c.Data.k }}]":                       "[]",
		"{{ with .Phases.later }}[{{ .Output.a }}]{{ end }}":              "[]",
		"{{ .Phases.find.Secrets.pg.Data.k | toString }}":                 "hunter2",
		"{{ .StatefulSet.Name }}":                                         "db",
	} {
		got, err := render.String(text, params(), render.Options{Lenient: true})
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		if want == "[]" {
			_, err = render.String(text, params(), render.Options{})
			require.Error(t, err, "strict: %s", text)
		}
	}
	p := params()
	_, err := render.String("{{ .Phases.later.Output.path }}", p, render.Options{Lenient: true})
	require.NoError(t, err)
	require.NotContains(t, p.Phases, "later", "the caller's parameters are not changed")
}

func TestPlaceholdersAndMask(t *testing.T) {
	p := render.Mask(params())
	for text, want := range map[string]string{
		"{{ .Phases.copy.Output.path }}":                          "«copy.Output.path»",
		"{{ .Phases.find.Output.path }}":                          "x",
		"{{ .Secrets.admin.Data.password | toString }}":           render.Masked,
		"{{ .Phases.find.Secrets.pg.Data.k | toString }}":         render.Masked,
		`{{ index .Phases.copy.Secrets.pg.Data "k" | toString }}`: render.Masked,
		"{{ .Profile.Credential.KeyPair.Secret }}":                render.Masked,
		"{{ .DeferPhase.Output.at }}":                             "«deferPhase.Output.at»",
	} {
		got, err := render.String(text, p, render.Options{Placeholder: true})
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	all, err := json.Marshal(p)
	require.NoError(t, err)
	require.NotContains(t, string(all), "hunter2")
	require.NotContains(t, string(all), "aHVudGVyMg") // base64 of it
	before, err := json.Marshal(params())
	require.NoError(t, err)
	require.Contains(t, string(before), "hunter2", "the test would see one")
}

func TestATargetThatIsASecretIsMasked(t *testing.T) {
	p := params()
	p.Object = map[string]any{"kind": "Secret", "data": map[string]any{"key": "aHVudGVyMg=="}, "stringData": map[string]any{"k": "hunter2"}}
	got, err := render.String("{{ .Object.data.key | toString | b64dec }} {{ .Object.stringData.k }}", render.Mask(p), render.Options{})
	require.NoError(t, err)
	require.Equal(t, render.Masked+" "+render.Masked, got)
}

func TestArgsLeavesRawOnesToTheFunction(t *testing.T) {
	fn, ok := catalogue.Default().Lookup("WaitV2")
	require.True(t, ok)
	args := plan.Values{"timeout": "5m", "conditions": map[string]any{"anyOf": []any{map[string]any{
		"condition":       "{{ $.status.ready }}",
		"objectReference": map[string]any{"name": "{{ .StatefulSet.Name }}"},
	}}}}
	out, err := render.Args(fn, args, params(), render.Options{Path: "phase wait"})
	require.NoError(t, err)
	require.Equal(t, plan.Values{"timeout": "5m", "conditions": map[string]any{"anyOf": []any{map[string]any{
		"condition": "{{ $.status.ready }}", "objectReference": map[string]any{"name": "db"},
	}}}}, out)
	_, err = render.Args(nil, args, params(), render.Options{Path: "phase wait"})
	require.ErrorContains(t, err, "phase wait.args.conditions.anyOf[0].condition")
}

func TestReferencesAndArtifacts(t *testing.T) {
	refs, err := render.References(map[string]plan.Reference{"pg": {Kind: "Secret", Name: "{{ .StatefulSet.Name }}-pg", Namespace: "{{ .StatefulSet.Namespace }}"}}, params(), render.Options{})
	require.NoError(t, err)
	require.Equal(t, plan.Reference{Kind: "Secret", Name: "db-pg", Namespace: "shop"}, refs["pg"])
	arts, err := render.Artifacts(map[string]plan.Artifact{
		"a": {KeyValue: map[string]string{"{{ .Target.Name }}": "{{ .Phases.find.Output.count }}"}},
		"b": {KopiaSnapshot: "{{ .Phases.find.Output.path }}"},
	}, params(), render.Options{})
	require.NoError(t, err)
	require.Equal(t, map[string]plan.Artifact{"a": {KeyValue: map[string]string{"db": "3000000"}}, "b": {KopiaSnapshot: "x"}}, arts)
	_, err = render.Artifacts(map[string]plan.Artifact{"a": {KeyValue: map[string]string{"k": "{{ .Phases.gone.Output.x }}"}}}, params(), render.Options{})
	require.ErrorContains(t, err, "outputArtifacts.a.keyValue.k")
}

func TestSelfName(t *testing.T) {
	for call, want := range map[string]string{"lock.do": "lock", "lock.undo": "lock", "copy.compensate": "copy", "copy": "copy", "do": "do"} {
		require.Equal(t, want, render.SelfName(call))
	}
}

func TestACallOfAPhaseFindsItsOwnSecrets(t *testing.T) {
	p := params()
	p.CurrentPhase = "find.undo"
	p.Phases["find.undo"] = &render.Phase{Secrets: map[string]render.Secret{"own": {Data: map[string][]byte{"k": []byte("mine")}}}}
	const text = "{{ .Phases.find.Secrets.own.Data.k | toString }} {{ .Phases.find.Secrets.pg.Data.k | toString }} {{ .Phases.find.Output.path }}"
	for _, lenient := range []bool{false, true} {
		got, err := render.String(text, p, render.Options{Lenient: lenient})
		require.NoError(t, err)
		require.Equal(t, "mine hunter2 x", got)
	}
	require.NotContains(t, p.Phases["find"].Secrets, "own", "the caller's parameters are not changed")
}

func TestFromScopeKnowsTheKindsOfTargets(t *testing.T) {
	of := func(kind string) *render.Params {
		return render.FromScope(plan.Scope{Target: plan.Target{Kind: kind, Name: "n", Namespace: "ns"}})
	}
	require.Equal(t, "n", of("Deployment").Deployment.Name)
	require.Nil(t, of("Deployment").StatefulSet)
	require.Equal(t, "n", of("deploymentconfig").DeploymentConfig.Name)
	require.Equal(t, "ns", of("PVC").PVC.Namespace)
	require.Equal(t, "n", of("Namespace").Namespace.Name)
	host := of("sqlite")
	require.Nil(t, host.StatefulSet)
	require.Equal(t, map[string]any{"name": "n", "namespace": "ns", "labels": map[string]any{}, "annotations": map[string]any{}}, host.Object["metadata"])
}

// What a template asks of a made-up target is there, with the right type.
func TestSampleHasWhatTemplatesAskFor(t *testing.T) {
	const text = `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    phases:
    - name: a
      func: KubeTask
      args:
        image: '{{ index .Object.metadata.labels "app.kubernetes.io/instance" }}'
        command:
        - '{{ (index .Object.spec.template.spec.volumes 1).persistentVolumeClaim.claimName }}'
        - '{{ range .Object.spec.nodes }}{{ .name }};{{ end }}'
        - '{{ .Object.data.key | toString | b64dec }}'
        - '{{ if gt .Options.depth 0 }}deep{{ end }}'
        - '{{ index .StatefulSet.Pods 4 }}/{{ index (index .StatefulSet.Containers 1) 3 }}'
        - '{{ len .Object.spec.nodes }}'
        - '{{ (.Options.json | fromJson) }}'
        - '{{ index .Object.metadata.annotations "a" }}{{ .PodLabels.team }}'
        - '{{ .Profile.Credential.Secret.Data.aws_access_key_id | toString }}'
        - '{{ index .Secrets.admin.Data "k" | toString }}{{ .ConfigMaps.c.Data.k }}{{ .ArtifactsIn.d.KeyValue.p }}'
`
	bp, faults := blueprints.Parse("a", []byte(text))
	require.Empty(t, faults, "%s", faults.Error())
	p := render.Sample(bp, bp.Actions[0], "")
	out, err := render.Args(nil, plan.Values(bp.Actions[0].Phases[0].Args), p, render.Options{})
	require.NoError(t, err)
	require.Equal(t, "sample-instance", out["image"])
	require.Equal(t, []any{
		"sample-claimName", "sample-name;", "sample-key", "deep", "sample-4/container-3", "1", "map[]", "sample-asample-team",
		render.Masked, render.Masked + "sample-ksample-p",
	}, out["command"])
}

func TestRename(t *testing.T) {
	bp, faults := blueprints.Parse("a", []byte("apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: a}\nactions:\n  b:\n    phases:\n    - {name: a, func: LocationDelete, args: {artifact: '{{ .StatefulSet.Name }}'}}\n"))
	require.Empty(t, faults)
	p := render.Sample(bp, bp.Actions[0], "")
	render.Rename(p, "db", "shop")
	require.Equal(t, []string{"db-0", "db-1"}, p.StatefulSet.Pods)
	require.Contains(t, p.StatefulSet.PersistentVolumeClaims, "db-1")
	require.Equal(t, "shop", p.Object["metadata"].(map[string]any)["namespace"])
}

// Conditions are the function's to evaluate, over an object: Kanister renders
// neither Wait's nor WaitV2's. What stands beside them is rendered.
func TestConditionsAreLeftToTheFunction(t *testing.T) {
	p := render.FromScope(plan.Scope{Target: plan.Target{Kind: "StatefulSet", Name: "db", Namespace: "shop"}, Options: plan.Values{"host": "db:5432", "timeout": "90s"}})
	condition := `{{ if eq "{ $.status.conditions[?(@.type=="Ready")].status }" "True" }}true{{ end }}`
	for _, name := range []string{"Wait", "WaitV2"} {
		fn, ok := catalogue.Default().Lookup(name)
		require.True(t, ok)
		got, err := render.Args(fn, plan.Values{"timeout": "{{ .Options.timeout }}", "conditions": map[string]any{"anyOf": []any{
			map[string]any{"condition": condition, "objectReference": map[string]any{"name": "{{ .StatefulSet.Name }}"}},
			map[string]any{"tcp": "{{ .Options.host }}"},
		}}}, p, render.Options{})
		require.NoError(t, err)
		require.Equal(t, plan.Values{"timeout": "90s", "conditions": map[string]any{"anyOf": []any{
			map[string]any{"condition": condition, "objectReference": map[string]any{"name": "db"}},
			map[string]any{"tcp": "db:5432"},
		}}}, got)
	}
}
