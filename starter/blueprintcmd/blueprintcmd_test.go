package blueprintcmd_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/library"
	"thaw/starter/blueprintcmd"
)

const good = `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: shop}
actions:
  backup:
    secretNames: [admin]
    outputArtifacts: {dump: {keyValue: {path: '{{ .Phases.dump.Output.path }}'}}}
    phases:
    - name: dump
      func: KubeTask
      args:
        image: busybox
        namespace: '{{ .StatefulSet.Namespace }}'
        command: [dump, '{{ index .StatefulSet.Pods 1 }}', '{{ .Secrets.admin.Data.password | toString }}', '{{ .Options.depth }}']
    - name: note
      func: LocationDelete
      args: {artifact: '{{ .Phases.dump.Output.path }}'}
  delete:
    phases:
    - {name: drop, func: LocationDelete, args: {artifact: '{{ .Object.spec.size }}'}}
`

func run(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := blueprintcmd.New(&out)
	cmd.SetErr(&errOut)
	cmd.SetIn(strings.NewReader(in))
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestLint(t *testing.T) {
	dir := t.TempDir()
	ok := write(t, dir, "good.yaml", good)
	bad := write(t, dir, "sub/bad.yml", strings.ReplaceAll(good, "LocationDelete", "LocationDelet"))
	warn := write(t, dir, "warn/warn.yaml", strings.ReplaceAll(good, "secretNames: [admin]", "secretNames: []"))
	write(t, dir, "values.yaml", "replicas: 3\n")

	out, err := run(t, "", "lint", ok)
	require.NoError(t, err)
	require.Empty(t, out)

	out, err = run(t, "", "lint", dir)
	require.Equal(t, fault.User, fault.Of(err))
	require.ErrorContains(t, err, "2 errors, 1 warning in 3 files")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 3)
	require.Equal(t, bad+`:16:13: error: actions.backup.phases[1].func: there is no function "LocationDelet"; did you mean "LocationDelete"? [unknown-function]`, lines[0])
	require.Regexp(t, `^`+warn+`:\d+:\d+: warning: .*\[undeclared-secret\]$`, lines[2])

	_, err = run(t, "", "lint", warn)
	require.NoError(t, err)
	_, err = run(t, "", "lint", "--strict", warn)
	require.ErrorContains(t, err, "0 errors, 1 warning in 1 file")

	out, err = run(t, strings.ReplaceAll(good, "image: busybox", "imag: busybox"), "lint", "-", "-o", "json")
	require.Error(t, err)
	var faults blueprints.Faults
	require.NoError(t, json.Unmarshal([]byte(out), &faults))
	require.Len(t, faults, 2)
	require.Equal(t, "stdin", faults[0].File)
	require.Equal(t, "missing-argument", faults[0].Code)

	out, err = run(t, "", "lint", ok, "-o", "json")
	require.NoError(t, err)
	require.Equal(t, "[]\n", out, "a list, if there is nothing in it")

	out, err = run(t, "", "lint", warn, "-o", "yaml")
	require.NoError(t, err)
	var fromYAML []map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(out), &fromYAML))
	require.Equal(t, "undeclared-secret", fromYAML[0]["code"])

	out, err = run(t, "", "lint", warn, "-o", "table")
	require.NoError(t, err)
	require.Regexp(t, `^PLACE +SEVERITY +CODE +MESSAGE\n`, out)

	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"lint", filepath.Join(dir, "none.yaml")}, "none.yaml"},
		{[]string{"lint", t.TempDir()}, "no blueprint below"},
		{[]string{"lint", ok, "-o", "xml"}, "want text, table, json or yaml"},
		{[]string{"lint"}, "requires at least 1 arg"},
	} {
		_, err = run(t, "", c.args...)
		require.ErrorContains(t, err, c.want, c.args)
	}
}

func TestLintOfAFileOfSeveralBlueprints(t *testing.T) {
	out, err := run(t, good+"---\n"+strings.ReplaceAll(good, "name: shop", "name: store"), "lint", "-")
	require.NoError(t, err, out)
	require.Empty(t, out)
}

func TestRender(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "good.yaml", good)
	object := write(t, dir, "object.yaml", "kind: StatefulSet\nspec: {size: 12Gi}\n")

	out, err := run(t, "", "render", file, "--action", "backup", "--target", "statefulset/prod/db", "--option", "depth=3=x")
	require.NoError(t, err)
	var got struct {
		Action string
		Phases []struct {
			Name string
			Args map[string]any
		}
		OutputArtifacts map[string]struct{ KeyValue map[string]string }
	}
	require.NoError(t, yaml.Unmarshal([]byte(strings.ReplaceAll(strings.ReplaceAll(out, "outputArtifacts", "outputartifacts"), "keyValue", "keyvalue")), &got))
	require.Equal(t, "backup", got.Action)
	require.Equal(t, "prod", got.Phases[0].Args["namespace"])
	require.Equal(t, []any{"dump", "db-1", "********", "3=x"}, got.Phases[0].Args["command"])
	require.Equal(t, "«dump.Output.path»", got.Phases[1].Args["artifact"])
	require.Equal(t, "«dump.Output.path»", got.OutputArtifacts["dump"].KeyValue["path"])

	out, err = run(t, good, "render", "-", "-a", "delete", "--object", object, "-o", "json")
	require.NoError(t, err)
	require.True(t, json.Valid([]byte(out)))
	require.Contains(t, out, `"artifact": "12Gi"`)

	bare := write(t, dir, "bare.yaml", "kind: StatefulSet\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"render", file, "-a", "delete", "--object", bare}, `actions.delete.phases[0].args.artifact: {{ .Object.spec.size }}: there is no "spec"`},
		{[]string{"render", file}, "say which action to render with --action; blueprint shop has backup, delete"},
		{[]string{"render", file, "-a", "bakup"}, `did you mean "backup"?`},
		{[]string{"render", file, "-a", "backup", "--target", "db"}, "want kind/name, kind/namespace/name or kind:address"},
		{[]string{"render", file, "-a", "backup", "--option", "depth"}, "want name=value"},
		{[]string{"render", file, "-a", "backup", "--object", "none"}, "--object"},
		{[]string{"render", "nothing-of-that-name"}, "nothing-of-that-name"},
	} {
		_, err = run(t, "", c.args...)
		require.ErrorContains(t, err, c.want, c.args)
		require.Equal(t, fault.User, fault.Of(err), c.args)
	}
	_, err = run(t, strings.ReplaceAll(good, ".Phases.dump.Output.path", ".Phases.dum.Output.path"), "render", "-", "-a", "backup")
	require.ErrorContains(t, err, "unknown-phase", "a faulty blueprint is not rendered")
}

func TestRenderKnowsTheParameters(t *testing.T) {
	const text = `apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: a}
parameters: {depth: {type: integer, minimum: 1, default: 2}}
actions:
  backup:
    phases:
    - name: lock
      freeze:
        maxFreeze: 60s
        proof: [id]
        do: {func: KubeExec, args: {namespace: n, pod: p, command: [lock, '{{ .Options.depth }}', '{{ .Target.Name }}']}}
        undo: {func: KubeExec, args: {namespace: n, pod: p, command: [unlock]}}
      phases:
      - {name: cut, func: CreateCSISnapshot, args: {pvc: a, namespace: n, snapshotClass: c}}
`
	out, err := run(t, text, "render", "-", "--target", "sqlite:/data/shop.db")
	require.NoError(t, err)
	for _, want := range []string{`- "2"`, "/data/shop.db", "maxFreeze: 1m0s", "undo:", "name: cut"} {
		require.Contains(t, out, want)
	}
	_, err = run(t, text, "render", "-", "--option", "depth=0")
	require.ErrorContains(t, err, "minimum: got 0, want 1")
	_, err = run(t, text, "render", "-", "--option", "dept=1")
	require.ErrorContains(t, err, `did you mean "depth"?`)
}

func TestExplain(t *testing.T) {
	out, err := run(t, "", "explain")
	require.NoError(t, err)
	for _, f := range catalogue.Default().Functions {
		require.Contains(t, out, f.Name)
	}
	out, err = run(t, "", "explain", "CreateCSISnapshotStatic")
	require.NoError(t, err)
	for _, want := range []string{"(required)", "(also handle)", "snapshotContent", "10m at most"} {
		require.Contains(t, out, want)
	}
	out, err = run(t, "", "explain", "CreateRDSSnapshot")
	require.NoError(t, err)
	require.Contains(t, out, "no worker of this release runs it")
	// Every function can be explained, and has the same facts as JSON.
	for _, f := range catalogue.Default().Functions {
		out, err := run(t, "", "explain", f.Name)
		require.NoError(t, err)
		for _, a := range f.Args {
			require.Contains(t, out, a.Name)
		}
		out, err = run(t, "", "explain", f.Name, "-o", "json")
		require.NoError(t, err)
		var g catalogue.Function
		require.NoError(t, json.Unmarshal([]byte(out), &g))
		require.Equal(t, f, g)
	}
	_, err = run(t, "", "explain", "KubeTsak")
	require.ErrorContains(t, err, `did you mean "KubeTask"?`)
}

func TestListAndShow(t *testing.T) {
	entries, err := library.List()
	require.NoError(t, err)
	out, err := run(t, "", "list")
	require.NoError(t, err)
	require.Regexp(t, `^NAME +ACTIONS +DESCRIPTION\n`, out)
	for _, e := range entries {
		require.Contains(t, out, e.Name)
		text, err := run(t, "", "show", e.Name)
		require.NoError(t, err)
		want, err := library.Load(e.Name)
		require.NoError(t, err)
		require.Equal(t, string(want), text)
	}
	out, err = run(t, "", "list", "-o", "json")
	require.NoError(t, err)
	var all []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &all))
	require.Len(t, all, len(entries))
	for _, name := range []string{"nothing", "../library", ""} {
		_, err = run(t, "", "show", name)
		require.Equal(t, fault.User, fault.Of(err), name)
		require.ErrorContains(t, err, "thaw blueprint list")
	}
}

func TestSchemaIsPrinted(t *testing.T) {
	out, err := run(t, "", "schema")
	require.NoError(t, err)
	var s map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &s))
	require.Equal(t, "https://json-schema.org/draft/2020-12/schema", s["$schema"])
}

// Every command's help has an example that names the command.
func TestHelpTeaches(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if len(c.Commands()) == 0 {
			require.NotEmpty(t, c.Short, c.Name())
			require.Contains(t, c.Example, "thaw blueprint "+c.Name(), c.Name())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(blueprintcmd.New(io.Discard))
}
