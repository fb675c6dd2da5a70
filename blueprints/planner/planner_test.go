package planner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/planner"
	"thaw/blueprints/render"
)

func testCatalogue() catalogue.Catalogue {
	text := func(name string) catalogue.Arg { return catalogue.Arg{Name: name, Type: catalogue.String} }
	return catalogue.New(catalogue.Default().Functions, []catalogue.Function{
		{Name: "Freeze", Args: []catalogue.Arg{text("label")}, Outputs: []catalogue.Output{{Name: "session"}}, Proof: []string{"session"}, Timeout: 10 * time.Minute},
		{Name: "Thaw", Idempotent: true, Args: []catalogue.Arg{text("session")}, Outputs: []catalogue.Output{{Name: "session"}}, Timeout: 2 * time.Minute},
		{Name: "Cut", Cut: true, Args: []catalogue.Arg{text("label")}, Outputs: []catalogue.Output{{Name: "path"}}, Timeout: 5 * time.Minute},
		{Name: "Run", Args: []catalogue.Arg{{Name: "command", Type: catalogue.List}, text("a")}, OpenOutputs: true, Timeout: time.Hour},
		{Name: "Look", ReadOnly: true, Args: []catalogue.Arg{text("a")}, OpenOutputs: true, Timeout: time.Minute},
		{Name: "Ask", Person: true, Args: []catalogue.Arg{text("message")}, Timeout: time.Hour},
	})
}

func parse(t *testing.T, text string) *blueprints.Blueprint {
	t.Helper()
	bp, faults := blueprints.Parse("test.yaml", []byte(text))
	faults = append(faults, blueprints.Lint(bp, testCatalogue())...)
	require.NoError(t, faults.Err())
	return bp
}

const shop = `apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: shop}
parameters:
  depth: {type: integer, minimum: 1, maximum: 9, default: 2, description: How deep to look.}
  mode: {type: string, enum: [full, fast], required: true, description: What to copy}
  quiet: {type: boolean}
  note: {type: string}
  tags: {type: array, items: {type: string}}
actions:
  backup:
    kind: StatefulSet
    secretNames: [admin]
    configMapNames: [settings]
    approval: {message: Go on, approvers: [ana, bo], count: 1, optional: true}
    outputArtifacts:
      dump: {keyValue: {path: '{{ .Phases.cut.Output.path }}'}}
    phases:
    - name: find
      func: Look
      args: {a: '{{ .Options.depth }}{{ .Options.mode }}{{ .Options.quiet }}{{ .Options.note }}{{ .Options.tags }}'}
    - name: lock
      freeze:
        maxFreeze: 60s
        do: {func: Freeze, args: {label: x}, objects: {pg: {kind: Secret, name: pg}}}
        undo: {func: Thaw, timeout: 30s}
      phases:
      - {name: cut, func: Cut, args: {label: '{{ .Phases.lock.Output.session }}'}}
      - {name: cut2, func: Cut, timeout: 20s, needs: []}
    - name: copy
      func: Run
      objects: {s3: {kind: Secret, name: s3}}
      args: {command: [cp, '{{ .Phases.cut.Output.path }}', 3]}
      timeout: 2h
      retry: {maxAttempts: 2, backoff: 3m, exitCodes: true, nonRetryable: [UserError]}
      when: options.mode == "full"
      idempotent: true
      compensate: {func: Run, args: {command: [rm]}, objects: {own: {kind: Secret, name: own}}}
    - {name: ask, func: Ask, needs: [find]}
    verify:
    - {name: check, func: Look}
    - {name: check2, func: Look}
    deferPhase: {func: Run, args: {command: [tidy]}}
  restore:
    inputArtifactNames: [dump]
    approval: {fourEyes: true}
    phases:
    - {name: put, func: Run, args: {a: '{{ .ArtifactsIn.dump.KeyValue.path }}'}}
`

func request(edit func(*plan.Request)) plan.PlanInput {
	r := plan.Request{
		Action: "backup", Target: plan.Target{Kind: "statefulset", Name: "db", Namespace: "shop"},
		Options:    plan.Values{"mode": "full"},
		Secrets:    map[string]plan.Reference{"admin": {Name: "pg-admin"}},
		ConfigMaps: map[string]plan.Reference{"settings": {Name: "pg-settings"}},
	}
	if edit != nil {
		edit(&r)
	}
	return plan.PlanInput{Request: r, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
}

func TestAPlanHasAllOfTheAction(t *testing.T) {
	bp := parse(t, shop)
	p, err := planner.Build(bp, testCatalogue(), request(nil), planner.Extra{RestorePoint: plan.RestorePointRef{ID: "rp", Directory: "/rp"}})
	require.NoError(t, err)

	require.Equal(t, []string{"shop", "backup", bp.Digest, shop}, []string{p.Blueprint, p.Action, p.BlueprintDigest, p.BlueprintText})
	require.Regexp(t, "^sha256:", p.Digest)
	require.Equal(t, plan.Values{"mode": "full", "depth": int64(2), "quiet": false, "note": "", "tags": []any{}}, p.Scope.Options)
	require.Equal(t, "2026-01-02T03:04:05.000000006Z", p.Scope.Time)
	require.Equal(t, "rp", p.Scope.RestorePoint.ID)
	require.Equal(t, "pg-admin", p.Scope.Secrets["admin"].Name)
	require.Equal(t, "{{ .Phases.cut.Output.path }}", p.Artifacts["dump"].KeyValue["path"])
	require.Equal(t, &plan.Approval{Message: "Go on", Approvers: []string{"ana", "bo"}, Count: 1, Timeout: plan.Duration(72 * time.Hour), Optional: true}, p.Approval)
	require.Empty(t, p.Warnings)

	require.Len(t, p.Phases, 4)
	find, lock, cp, ask := p.Phases[0], p.Phases[1], p.Phases[2], p.Phases[3]
	standard := plan.Retry{MaxAttempts: 5, Backoff: plan.Duration(time.Second), MaxBackoff: plan.Duration(time.Minute)}
	require.Empty(t, find.Needs)
	require.Equal(t, standard, find.Retry)
	require.True(t, find.Idempotent, "what changes nothing may run twice")
	require.Equal(t, plan.Duration(time.Minute), find.Timeout, "the function's")

	require.Equal(t, []string{"find"}, lock.Needs)
	f := lock.Freeze
	require.Equal(t, plan.Duration(time.Minute), f.MaxFreeze)
	require.Equal(t, []string{"session"}, f.Proof, "the do function's")
	require.Equal(t, []string{"lock.do", "Freeze", "lock.undo", "Thaw"}, []string{f.Do.Name, f.Do.Func, f.Undo.Name, f.Undo.Func})
	require.Equal(t, plan.Duration(time.Minute), f.Do.Timeout, "no longer than the freeze")
	require.Equal(t, plan.Duration(30*time.Second), f.Undo.Timeout)
	require.Equal(t, "pg", f.Undo.Objects["pg"].Name, "undo finds the secrets of do")
	require.Equal(t, plan.Duration(time.Minute), f.Phases[0].Timeout)
	require.Equal(t, plan.Duration(20*time.Second), f.Phases[1].Timeout)
	require.Empty(t, f.Phases[0].Needs)
	require.Empty(t, f.Phases[1].Needs, "needs: [] starts at once")

	require.Equal(t, []string{"lock"}, cp.Needs)
	require.Equal(t, plan.Retry{MaxAttempts: 2, Backoff: plan.Duration(3 * time.Minute), MaxBackoff: plan.Duration(3 * time.Minute), NonRetryable: []string{"UserError"}, ExitCodes: true}, cp.Retry)
	require.True(t, cp.Idempotent)
	require.Equal(t, `options.mode == "full"`, cp.When)
	require.Equal(t, plan.Duration(2*time.Hour), cp.Timeout)
	require.Equal(t, []any{"cp", "{{ .Phases.cut.Output.path }}", int64(3)}, cp.Args["command"])
	require.Equal(t, "copy.compensate", cp.Compensate.Name)
	require.Len(t, cp.Compensate.Objects, 2, "its own, and the phase's")
	require.True(t, ask.Person)
	require.Equal(t, []string{"find"}, ask.Needs)
	require.Equal(t, []string{"check"}, p.Verify[1].Needs)
	require.Empty(t, p.Verify[0].Needs)
	require.Equal(t, "deferPhase", p.Defer.Name)
}

func TestAPlanIsTheSameForTheSameInput(t *testing.T) {
	bp := parse(t, shop)
	a, err := planner.Build(bp, testCatalogue(), request(nil), planner.Extra{})
	require.NoError(t, err)
	b, err := planner.Build(bp, testCatalogue(), request(nil), planner.Extra{})
	require.NoError(t, err)
	require.Equal(t, a.Digest, b.Digest)
	c, err := planner.Build(bp, testCatalogue(), request(func(r *plan.Request) { r.Options["depth"] = int64(3) }), planner.Extra{})
	require.NoError(t, err)
	require.NotEqual(t, a.Digest, c.Digest)

	// Changing one plan changes neither the blueprint nor another plan.
	a.Phases[2].Args["command"].([]any)[0] = "rm"
	a.Phases[2].Objects["s3"] = plan.Reference{Name: "other"}
	d, err := planner.Build(bp, testCatalogue(), request(nil), planner.Extra{})
	require.NoError(t, err)
	require.Equal(t, b.Digest, d.Digest)
}

func TestWhatIsWrongWithARequest(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*plan.Request)
		want []string
	}{
		"no such action":            {func(r *plan.Request) { r.Action = "bakcup" }, []string{`no action "bakcup"; did you mean "backup"?`}},
		"nothing like it":           {func(r *plan.Request) { r.Action = "zzz" }, []string{`no action "zzz"; it has backup, restore`}},
		"no action":                 {func(r *plan.Request) { r.Action = "" }, []string{"action is missing; blueprint shop has backup, restore"}},
		"no target":                 {func(r *plan.Request) { r.Target.Name = "" }, []string{"target.name is missing"}},
		"another kind":              {func(r *plan.Request) { r.Target.Kind = "Deployment" }, []string{"target is a Deployment; action backup is for a StatefulSet"}},
		"onFailure":                 {func(r *plan.Request) { r.OnFailure = "ignore" }, []string{`onFailure is "ignore"; want fail or pause`}},
		"a required option":         {func(r *plan.Request) { r.Options = nil }, []string{`option "mode" is missing (What to copy)`}},
		"an option out of range":    {func(r *plan.Request) { r.Options["depth"] = int64(10) }, []string{`option "depth": maximum: got 10, want 9 (How deep to look)`}},
		"an option of another type": {func(r *plan.Request) { r.Options["depth"] = "deep" }, []string{`option "depth": got string, want integer`}},
		"an option not in the enum": {func(r *plan.Request) { r.Options["mode"] = "slow" }, []string{`option "mode": value must be one of 'full', 'fast'`}},
		"an unknown option":         {func(r *plan.Request) { r.Options["dept"] = 1 }, []string{`option "dept" is not a parameter of blueprint shop; did you mean "depth"?`}},
		"no secret":                 {func(r *plan.Request) { r.Secrets = nil }, []string{`secret "admin" is missing`, "secrets.admin.name"}},
		"a secret without name":     {func(r *plan.Request) { r.Secrets["admin"] = plan.Reference{Namespace: "x"} }, []string{`secret "admin" is missing`}},
		"no config map":             {func(r *plan.Request) { r.ConfigMaps = nil }, []string{`config map "settings" is missing`}},
		"no artifact":               {func(r *plan.Request) { r.Action, r.RequestedBy = "restore", "cy" }, []string{`artifact "dump" is missing`}},
		"four eyes, nobody asks": {func(r *plan.Request) {
			r.Action, r.Artifacts = "restore", map[string]plan.Artifact{"dump": {}}
		}, []string{"requestedBy is missing"}},
		"an approval that is not optional": {func(r *plan.Request) {
			r.Action, r.Artifacts, r.NoApproval, r.RequestedBy = "restore", map[string]plan.Artifact{"dump": {}}, true, "cy"
		}, []string{"the approval of action restore is not optional"}},
		"an approval nobody can give": {func(r *plan.Request) {
			r.Approval, r.RequestedBy = &plan.Approval{FourEyes: true, Count: 2}, "ana"
		}, []string{"the approval can never be given: it needs 2, and only 1 may give one"}},
		"approvers that the blueprint does not name": {func(r *plan.Request) {
			r.Approval = &plan.Approval{Approvers: []string{"eve"}}
		}, []string{"none of them may approve action backup; its blueprint says ana, bo"}},
		"all at once": {func(r *plan.Request) {
			r.Options = plan.Values{"depth": int64(0), "x": 1}
			r.Secrets, r.ConfigMaps, r.OnFailure, r.Target = nil, nil, "no", plan.Target{Kind: "Pod"}
		}, []string{"target.name", "onFailure", "target is a Pod", `"depth"`, `"mode"`, `"x"`, `"admin"`, `"settings"`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := planner.Build(parse(t, shop), testCatalogue(), request(c.edit), planner.Extra{})
			require.Error(t, err)
			require.Equal(t, fault.User, fault.Of(err))
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
		})
	}
}

func TestOptionsOfACommandLine(t *testing.T) {
	in := request(func(r *plan.Request) {
		r.Options = plan.Values{"mode": "fast", "depth": "7", "quiet": "true", "tags": `["a"]`}
	})
	p, err := planner.Build(parse(t, shop), testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	require.Equal(t, plan.Values{"mode": "fast", "depth": int64(7), "quiet": true, "note": "", "tags": []any{"a"}}, p.Scope.Options)
}

func TestApprovals(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*plan.Request)
		want *plan.Approval
	}{
		"an optional one dropped": {func(r *plan.Request) { r.NoApproval = true }, nil},
		"a stricter one": {func(r *plan.Request) {
			r.RequestedBy = "cy"
			r.Approval = &plan.Approval{FourEyes: true, Count: 2, Timeout: plan.Duration(time.Hour), Message: "Really"}
		}, &plan.Approval{Message: "Really", Approvers: []string{"ana", "bo"}, FourEyes: true, Count: 2, Timeout: plan.Duration(time.Hour), Optional: true}},
		"not a laxer one": {func(r *plan.Request) {
			r.Approval = &plan.Approval{Approvers: []string{"bo", "eve"}, Count: 0}
		}, &plan.Approval{Message: "Go on", Approvers: []string{"bo"}, Count: 1, Timeout: plan.Duration(72 * time.Hour), Optional: true}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := planner.Build(parse(t, shop), testCatalogue(), request(c.edit), planner.Extra{})
			require.NoError(t, err)
			require.Equal(t, c.want, p.Approval)
		})
	}
}

func TestArtifactsOfTheRestorePoint(t *testing.T) {
	in := request(func(r *plan.Request) {
		r.Action, r.RequestedBy = "restore", "cy"
		r.Artifacts = map[string]plan.Artifact{"more": {KopiaSnapshot: "k"}}
	})
	from := &plan.RestorePoint{Artifacts: map[string]plan.Artifact{"dump": {KeyValue: map[string]string{"path": "p"}}}}
	p, err := planner.Build(parse(t, shop), testCatalogue(), in, planner.Extra{From: from})
	require.NoError(t, err)
	require.Equal(t, "p", p.Scope.Artifacts["dump"].KeyValue["path"])
	require.Equal(t, "k", p.Scope.Artifacts["more"].KopiaSnapshot)
	require.Len(t, from.Artifacts, 1, "the restore point is not changed")
	require.True(t, p.Approval.FourEyes)
}

func TestFunctionsThatNoWorkerRunsAreNamedTogether(t *testing.T) {
	bp := parse(t, `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    phases:
    - {name: one, func: DeleteRDSSnapshot, args: {snapshotID: a}}
    - {name: two, func: Look}
    deferPhase: {func: DeleteDataUsingKopiaServer, args: {backupID: a, namespace: b, image: c}}
`)
	_, err := planner.Build(bp, testCatalogue(), plan.PlanInput{Request: plan.Request{Action: "backup", Target: plan.Target{Name: "x"}}}, planner.Extra{})
	require.Equal(t, fault.User, fault.Of(err))
	require.ErrorContains(t, err, "function DeleteRDSSnapshot of phase one: this release does not run it on any worker")
	require.ErrorContains(t, err, "function DeleteDataUsingKopiaServer of phase deferPhase")
	require.NotContains(t, err.Error(), "Look")
}

func TestWhatNeedsALocationProfileSaysSo(t *testing.T) {
	cat := catalogue.New(testCatalogue().Functions, []catalogue.Function{{Name: "Move", Profile: true, Timeout: time.Hour}})
	bp, faults := blueprints.Parse("test.yaml", []byte(`apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    outputArtifacts:
      data: {keyValue: {path: '{{ .Profile.Location.Bucket }}/data'}}
    phases:
    - {name: one, func: Move}
    - {name: two, func: Look, args: {a: 'kando location push --profile {{ toJson .Profile }}'}}
    - {name: three, func: Look, args: {a: '{{ if .Profile }}with one{{ end }}'}}
`))
	require.NoError(t, faults.Err())
	in := plan.PlanInput{Request: plan.Request{Action: "backup", Target: plan.Target{Name: "x"}}}
	_, err := planner.Build(bp, cat, in, planner.Extra{})
	require.Equal(t, fault.User, fault.Of(err))
	require.ErrorContains(t, err, "phase one: function Move needs a location profile; give one, as profile: {name, namespace}")
	require.ErrorContains(t, err, "phase two: its arguments name .Profile, and the run has none")
	require.ErrorContains(t, err, "artifact data names .Profile")
	require.NotContains(t, err.Error(), "three")
	in.Request.Profile = &plan.Reference{}
	_, err = planner.Build(bp, cat, in, planner.Extra{})
	require.ErrorContains(t, err, "profile.name is missing")
	in.Request.Profile.Name = "store"
	_, err = planner.Build(bp, cat, in, planner.Extra{})
	require.NoError(t, err)
}

func TestKanistersKindIsInformative(t *testing.T) {
	bp := parse(t, `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    kind: StatefulSet
    phases: [{name: one, func: Look, args: {a: '{{ .Options.anything }}'}}]
`)
	in := plan.PlanInput{Request: plan.Request{Action: "backup", Target: plan.Target{Kind: "Deployment", Name: "x"}, Options: plan.Values{"anything": "1"}}}
	p, err := planner.Build(bp, testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	require.Equal(t, []string{"target is a Deployment; action backup says that it is for a StatefulSet"}, p.Warnings)
	require.Equal(t, plan.Values{"anything": "1"}, p.Scope.Options)
}

const hooks = `apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backupPrehook:
    phases:
    - {name: quiesce, func: Freeze, objects: {pg: {kind: Secret, name: pg}}}
  backupPosthook:
    phases:
    - {name: unquiesce, func: Thaw}
`

func TestK10sPairIsAFreeze(t *testing.T) {
	in := plan.PlanInput{Request: plan.Request{Action: "backup", Target: plan.Target{Name: "x"}}}
	bp := parse(t, hooks+"  backup:\n    outputArtifacts: {d: {keyValue: {p: '{{ .Phases.cut.Output.path }}'}}}\n    phases: [{name: cut, func: Cut}]\n")
	p, err := planner.Build(bp, testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	require.Len(t, p.Phases, 1)
	f := p.Phases[0].Freeze
	require.Equal(t, []string{"backupHooks", "quiesce", "unquiesce", "cut"}, []string{p.Phases[0].Name, f.Do.Name, f.Undo.Name, f.Phases[0].Name})
	require.Equal(t, plan.Duration(20*time.Minute), f.MaxFreeze)
	require.Equal(t, []string{"session"}, f.Proof)
	require.Len(t, p.Artifacts, 1)

	p, err = planner.Build(parse(t, hooks), testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	require.Empty(t, p.Phases[0].Freeze.Phases)
	require.Len(t, p.Warnings, 1)

	// A hook alone can still be run by its name, as K10 does.
	in.Request.Action = "backupPrehook"
	p, err = planner.Build(bp, testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	require.Nil(t, p.Phases[0].Freeze)

	in.Request.Action = "backup"
	long := parse(t, hooks+"    - {name: second, func: Look}\n    deferPhase: {func: Look}\n")
	_, err = planner.Build(long, testCatalogue(), in, planner.Extra{})
	require.Equal(t, fault.User, fault.Of(err))
	require.ErrorContains(t, err, "action backupPosthook has 2 phases and a deferPhase")
	require.ErrorContains(t, err, "{freeze: {do, undo, maxFreeze}, phases: […]}")
}

func TestShowMasksAndMarks(t *testing.T) {
	bp := parse(t, `apiVersion: thaw.dev/v1alpha1
kind: Blueprint
metadata: {name: a}
actions:
  backup:
    secretNames: [admin]
    phases:
    - name: find
      func: Run
      args: {a: '{{ .Secrets.admin.Data.password | toString }}'}
    - name: lock
      freeze:
        maxFreeze: 60s
        do: {func: Freeze, args: {label: '{{ .Target.Name }}'}}
        undo: {func: Thaw}
      phases:
      - {name: cut, func: Cut, args: {label: '{{ .Phases.lock.Output.session }}'}}
    - name: use
      func: Run
      args: {command: ['{{ .Phases.find.Output.path }}', 3], a: '{{ range .Phases.find.Output.list }}{{ . }}{{ end }}'}
      compensate: {func: Run, args: {a: '{{ .Phases.use.Output.id }}'}}
`)
	in := plan.PlanInput{Request: plan.Request{Action: "backup", Target: plan.Target{Name: "db"}, Secrets: map[string]plan.Reference{"admin": {Name: "s"}}}}
	p, err := planner.Build(bp, testCatalogue(), in, planner.Extra{})
	require.NoError(t, err)
	before := p.Digest
	params := render.FromScope(p.Scope)
	params.Secrets["admin"] = render.Secret{Data: map[string][]byte{"password": []byte("hunter2")}}
	require.NoError(t, planner.Show(p, params))
	require.NotEqual(t, before, p.Digest, "sealed again")

	require.Equal(t, plan.Values{"a": "********"}, p.Phases[0].Shown)
	require.Equal(t, plan.Values{"label": "db"}, p.Phases[1].Freeze.Do.Shown)
	require.Equal(t, plan.Values{"label": "«lock.Output.session»"}, p.Phases[1].Freeze.Phases[0].Shown)
	require.Equal(t, []any{"«find.Output.path»", int64(3)}, p.Phases[2].Shown["command"])
	require.Equal(t, "{{ range .Phases.find.Output.list }}{{ . }}{{ end }}", p.Phases[2].Shown["a"], "what cannot be rendered yet")
	require.Equal(t, plan.Values{"a": "«use.Output.id»"}, p.Phases[2].Compensate.Shown)
	require.Equal(t, "{{ .Secrets.admin.Data.password | toString }}", p.Phases[0].Args["a"], "what runs is the template")
}
