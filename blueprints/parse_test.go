package blueprints_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
)

func full(t testing.TB) *blueprints.Blueprint {
	t.Helper()
	text, err := os.ReadFile("testdata/full.yaml")
	require.NoError(t, err)
	bp, faults := blueprints.Parse("full.yaml", text)
	require.Empty(t, faults, "%s", faults.Error())
	return bp
}

func TestAllOfTheLanguageIsRead(t *testing.T) {
	bp := full(t)
	faults := blueprints.Lint(bp, testCatalogue())
	require.Empty(t, faults, "%s", faults.Error())
	rendersOffline(t, bp)

	require.True(t, bp.Thaw())
	require.Equal(t, []string{"backup", "restore", "quiesce"}, bp.ActionNames())
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, bp.Digest)
	require.Equal(t, map[string]string{"team": "storage"}, bp.Metadata.Labels)
	require.Len(t, bp.Parameters, 4)
	require.Equal(t, int64(2), bp.Parameters[0].Default)
	require.True(t, bp.Parameters[2].Required)

	a, ok := bp.Action("backup")
	require.True(t, ok)
	require.Equal(t, 2, a.Approval.Count)
	require.Equal(t, 24*time.Hour, a.Approval.Timeout.D())
	find := a.Phases[0]
	require.Equal(t, 3, find.Retry.MaxAttempts)
	require.Equal(t, 2*time.Second, find.Retry.Backoff)
	require.True(t, *find.Idempotent)
	require.Equal(t, "LocationDelete", find.Compensate.Func)
	require.Nil(t, find.Needs)
	lock := a.Phases[1]
	require.Equal(t, []string{"find"}, lock.Needs)
	require.Equal(t, time.Minute, lock.Freeze.MaxFreeze)
	require.Equal(t, []string{"held"}, lock.Freeze.Proof)
	require.Equal(t, 10*time.Second, lock.Freeze.Do.Timeout)
	require.Equal(t, "cut", lock.Freeze.Phases[0].Name)
	require.Nil(t, a.Phases[2].Idempotent)
	require.Equal(t, "check", a.Verify[0].Name)
	require.Empty(t, a.DeferPhase.Name)

	line, col := bp.Position("actions.backup.phases[1].freeze.maxFreeze")
	require.Equal(t, []int{44, 20}, []int{line, col})
	line, _ = bp.Position("actions.backup.phases[1].freeze.nothing.there")
	require.Equal(t, 44, line, "the nearest element around it")
}

func TestValuesKeepTheirTypes(t *testing.T) {
	const text = `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    phases:
    - name: a
      func: KubeTask
      args:
        image: &image busybox
        command: [1000000, 1.5, true, null, "5", 2026-01-02, 0x10, 99999999999999999999, *image]
        podOverride: {3: three, <<: {a: 1}}
`
	bp, faults := blueprints.Parse("a", []byte(text))
	require.Empty(t, faults, "%s", faults.Error())
	args := bp.Actions[0].Phases[0].Args
	require.Equal(t, []any{int64(1000000), 1.5, true, nil, "5", "2026-01-02", int64(16), "99999999999999999999", "busybox"}, args["command"])
	require.Equal(t, map[string]any{"3": "three", "a": int64(1)}, args["podOverride"])
}

// Kubernetes takes null for absent.
func TestNullIsAbsent(t *testing.T) {
	const text = `apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: a, labels: , annotations: null}
description:
parameters:
actions:
  backup:
    kind:
    secretNames:
    outputArtifacts:
    deferPhase:
    approval: ~
    verify:
    phases:
    - {name: a, func: LocationDelete, args: {artifact: a}, objects: , retry: , compensate: , when: }
    - {name: b, func: KubeTask, args: {image: a, command: [a], namespace: }}
`
	faults := lint("f", []byte(text))
	require.Empty(t, faults, "%s", faults.Error())
}

func TestAListOfPhasesHasAnEnd(t *testing.T) {
	text := "apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: a}\nactions:\n  backup:\n    phases:\n"
	for i := range 2000 {
		text += fmt.Sprintf("    - {name: p%d, func: KubeTask, args: {image: a, command: [a]}}\n", i)
	}
	start := time.Now()
	faults := lint("f", []byte(text))
	require.Len(t, faults, 1)
	require.Equal(t, "too-many-phases", faults[0].Code)
	require.Equal(t, 507, faults[0].Line)
	require.Less(t, time.Since(start), 10*time.Second)
}

// A blueprint is text from outside: none may keep the planner busy.
func TestHostileTemplatesAreLintedInTime(t *testing.T) {
	vars := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "{{$v%d:=.Options}}", i)
		}
		return b.String()
	}
	for name, text := range map[string]string{
		"variables and blocks":     vars(20000) + strings.Repeat("{{if 1}}{{end}}", 30000),
		"references in one action": "{{ list " + strings.Repeat(".Tim ", 100000) + "}}",
		"conditions":               "{{ if and " + strings.Repeat(".Time ", 20000) + "}}" + strings.Repeat("{{.Time}}", 20000) + "{{ end }}",
		"blocks in blocks":         strings.Repeat("{{ if .Time }}", 900) + strings.Repeat("{{ .Tim }}", 20000) + strings.Repeat("{{ end }}", 900),
		"parentheses":              "{{ " + strings.Repeat("(", 900) + "list " + strings.Repeat(".Time ", 20000) + strings.Repeat(")", 900) + " }}",
		"faults":                   strings.Repeat("{{ .Phases.a.Output.b }}", 30000),
		"unclosed":                 strings.Repeat("{{ if 1 }}{{ end }}", 30000) + "{{ if 1 }}",
	} {
		t.Run(name, func(t *testing.T) {
			file := "apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: a}\nactions:\n  b:\n    phases:\n    - name: p\n      func: LocationDelete\n      args:\n        artifact: |\n          " + text + "\n"
			start := time.Now()
			faults := lint("f", []byte(file))
			require.Less(t, time.Since(start), 5*time.Second)
			require.LessOrEqual(t, len(faults), 60)
		})
	}
}

func TestSeveralDocuments(t *testing.T) {
	one := func(name string) string {
		return "apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: " + name + "}\nactions:\n  backup:\n    phases:\n    - {name: a, func: LocationDelete, args: {artifact: a}}\n"
	}
	text := "---\n# first\n" + one("first") + "---\n---\n" + one("second") + "---\n"
	bps, faults := blueprints.ParseAll("f", []byte(text))
	require.Empty(t, faults)
	require.Len(t, bps, 2)
	require.Equal(t, "second", bps[1].Metadata.Name)
	require.NotEqual(t, bps[0].Digest, bps[1].Digest)
	// Each document's text is that blueprint, alone.
	for _, b := range bps {
		again, faults := blueprints.Parse("f", b.Text)
		require.Empty(t, faults, "%s: %s", b.Text, faults.Error())
		require.Equal(t, b.Metadata.Name, again.Metadata.Name)
	}
}

func TestDigestNamesTheText(t *testing.T) {
	text := []byte("apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: a}\nactions:\n  backup:\n    phases:\n    - {name: a, func: LocationDelete, args: {artifact: a}}\n")
	a, _ := blueprints.Parse("a", text)
	b, _ := blueprints.Parse("b", text)
	c, _ := blueprints.Parse("a", append(text, '#'))
	require.Equal(t, a.Digest, b.Digest)
	require.NotEqual(t, a.Digest, c.Digest)
}

func TestTooLargeAFile(t *testing.T) {
	bp, faults := blueprints.Parse("f", []byte(strings.Repeat("# x\n", blueprints.MaxFile/4+1)))
	require.Nil(t, bp)
	require.Len(t, faults, 1)
	require.Equal(t, "too-large", faults[0].Code)
}

func TestWhatKubectlPrintsIsRead(t *testing.T) {
	const text = `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata:
  annotations: {}
  creationTimestamp: "2026-01-02T03:04:05Z"
  generation: 1
  managedFields: []
  name: a
  namespace: kasten-io
  resourceVersion: "1"
  uid: 6a
actions:
  backup:
    phases:
    - {name: a, func: LocationDelete, args: {artifact: a}}
status: {}
`
	_, faults := blueprints.Parse("f", []byte(text))
	require.Empty(t, faults, "%s", faults.Error())
}

func TestFaultsSortAndSplit(t *testing.T) {
	f := blueprints.Faults{
		{File: "b", Line: 2, Column: 1, Severity: blueprints.Warning, Code: "w", Message: "m"},
		{File: "b", Line: 1, Column: 1, Severity: blueprints.Error, Code: "e", Message: "m"},
		{File: "a", Line: 9, Column: 1, Severity: blueprints.Error, Code: "e", Message: "m", Path: "x"},
		{File: "a", Line: 9, Column: 1, Severity: blueprints.Error, Code: "e", Message: "m", Path: "y"},
	}.Sort()
	require.Equal(t, "a:9:1: error: x: m [e]\nb:1:1: error: m [e]\nb:2:1: warning: m [w]", f.Error())
	require.Len(t, f.Errors(), 2)
	require.Len(t, f.Warnings(), 1)
	require.Error(t, f.Err())
	require.NoError(t, f.Warnings().Err(), "warnings keep nothing from running")
}
