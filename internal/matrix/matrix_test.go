// Package matrix breaks every freeze in every way that design.md names, on a
// real Temporal server with real databases under write load, and watches the
// database: it takes writes again within maxFreeze + 2 s, and no restore point
// is called consistent whose freeze was broken. `make matrix` runs it.
package matrix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testenv"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// lanes are the columns of the matrix: databases on this host, or, with
// THAW_MATRIX=cluster, in pods of a cluster.
var lanes = func() []string {
	if os.Getenv("THAW_MATRIX") == "cluster" {
		return []string{"postgres-csi", "mariadb-csi"}
	}
	return []string{"sqlite", "postgres", "mariadb"}
}()

func TestMatrix(t *testing.T) {
	if os.Getenv("THAW_MATRIX") == "" {
		t.Skip("the failure matrix takes several minutes: make matrix")
	}
	only := regexp.MustCompile(os.Getenv("THAW_MATRIX_ONLY")) // cells' names, for debugging
	var mu sync.Mutex
	results := map[string]map[string]result{}
	t.Run("lanes", func(t *testing.T) {
		for _, name := range lanes {
			if l := os.Getenv("THAW_MATRIX_LANE"); l != "" && l != name {
				continue
			}
			t.Run(name, func(t *testing.T) {
				l := newLane(t, name)
				if l.kube == nil { // what breaks a cluster breaks it for all
					t.Parallel()
				}
				for i, c := range cells() {
					if !only.MatchString(c.name) {
						continue
					}
					r := l.run(i, c)
					mu.Lock()
					if results[c.name] == nil {
						results[c.name] = map[string]result{}
					}
					results[c.name][name] = r
					mu.Unlock()
					assert.Empty(t, r.frozen, "%s: %s", c.name, r.detail)
					assert.Empty(t, r.lie, c.name)
					assert.True(t, !c.ok || r.consistent, "%s: must end well, and ended: %s", c.name, r.detail)
				}
				l.leftovers(t)
			})
		}
	})
	write(t, results)
}

// result is what a cell showed.
type result struct {
	took       time.Duration // the longest that writers waited
	status     string
	consistent bool
	frozen     string // why the promise was broken: "" where it was kept
	lie        string // how a success was false
	detail     string
}

func write(t *testing.T, results map[string]map[string]result) {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-52s", "cell (frozen for at most, how the run ended)")
	for _, n := range lanes {
		fmt.Fprintf(&b, " %-24s", n)
	}
	b.WriteString("\n")
	var all, inTime, left, lies int
	for _, c := range cells() {
		row, ok := results[c.name]
		if !ok {
			continue
		}
		fmt.Fprintf(&b, "%-52s", c.name)
		for _, n := range lanes {
			r, ok := row[n]
			if !ok {
				fmt.Fprintf(&b, " %-24s", "-")
				continue
			}
			all++
			text := fmt.Sprintf("%5.2fs %s", r.took.Seconds(), r.status)
			switch {
			case r.frozen != "":
				left++
				text = "FROZEN: " + text
			case r.lie != "":
				lies++
				text = "FALSE: " + text
			default:
				inTime++
			}
			if r.consistent {
				text += ", consistent"
			}
			fmt.Fprintf(&b, " %-24s", text)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "%d cells, %d thawed in time, %d left frozen, %d false successes\n", all, inTime+lies, left, lies)
	fmt.Print(b.String())
	if file := os.Getenv("THAW_MATRIX_REPORT"); file != "" {
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
	}
}

// leftovers waits until nothing is left that runs made, on the cluster and in
// the storage behind it: the compensations are done when a run ends, and the
// sweep follows.
func (l *lane) leftovers(t *testing.T) {
	if l.kube == nil {
		return
	}
	var left []string
	assert.Eventually(t, func() bool {
		left = append(testcluster.Orphans(t, l.kube.Cluster, l.kube.ns), l.kube.stored()...)
		return len(left) == 0
	}, 4*time.Minute, time.Second)
	assert.Empty(t, left, "left on the cluster or in its storage")
}

// trial is one cell in one lane.
type trial struct {
	lane    *lane
	ctx     context.Context
	id      string
	session string
	target  plan.Target
	fault   *testenv.Fault
	// driverFault is the number of what the CSI driver does wrong.
	driverFault string
	timers      sync.WaitGroup
}

func (l *lane) run(i int, c cell) (r result) {
	limit := 4 * time.Minute
	if l.kube != nil {
		l.kube.settle()
		limit += 2 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	x := &trial{lane: l, ctx: ctx, id: fmt.Sprintf("%s.backup/%02d", l.blueprint, i), target: l.db.target}
	x.target.TaskQueue = plan.DefaultTaskQueue
	x.session = plan.FreezeID(x.target)
	dir := filepath.Join(l.dir, fmt.Sprintf("cell-%02d", i))
	require.NoError(l.t, os.MkdirAll(dir, 0o755))
	x.fault = testenv.NewFault(c.point, c.mode, dir)
	if c.point != "" {
		l.worker.Stop()
		l.startWorker(x.fault)
	}
	if c.before != nil {
		c.before(x)
	}
	x.await("the database takes writes", l.seen.free)
	l.seen.reset()
	run := x.start(c)
	if c.point != "" {
		x.await("the fault is reached", func() bool { return x.fault.Reached() || (c.timeout && !x.running(x.id)) })
	}
	if c.act != nil {
		c.act(x)
	}
	r = x.verdict(run)
	x.fault.Go() // nothing waits any more
	x.timers.Wait()
	if c.after != nil {
		c.after(x)
	}
	if dir := os.Getenv("THAW_RECORD"); dir != "" {
		name := filepath.Join(dir, l.name+"-"+testenv.Slug(c.name))
		testenv.Record(ctx, l.t, l.client, x.id, run.GetRunID(), name+".json")
		testenv.Record(ctx, l.t, l.client, x.session, "", name+"-session.json")
	}
	l.t.Logf("%-52s frozen %5.2fs, %s %s", c.name, r.took.Seconds(), r.status, r.detail)
	return r
}

func (x *trial) start(c cell) client.WorkflowRun {
	text, err := library.Load(x.lane.blueprint)
	x.must(err)
	b := parse(x.lane.t, text)
	b.setFreeze("maxFreeze", x.lane.maxFreeze.String())
	if c.edit != nil {
		c.edit(b)
	}
	req := plan.Request{BlueprintText: b.text(), Target: x.lane.db.target, Secrets: x.lane.db.secrets, Options: x.lane.db.options}
	o := client.StartWorkflowOptions{ID: x.id, TaskQueue: plan.DefaultTaskQueue}
	if c.timeout {
		o.WorkflowExecutionTimeout = x.lane.reach
	}
	run, err := x.lane.client.ExecuteWorkflow(x.ctx, o, x.lane.blueprint+".backup", req)
	x.must(err)
	return run
}

// verdict waits until it is over, and says what was seen.
func (x *trial) verdict(run client.WorkflowRun) (r result) {
	patience := 90 * time.Second
	if x.lane.kube != nil {
		patience += time.Minute
	}
	deadline := time.Now().Add(patience)
	for x.running(x.id) || x.running(x.session) || !x.lane.seen.free() {
		if time.Now().After(deadline) {
			r.frozen = fmt.Sprintf("not over after %s: run %t, session %t, free %t", patience, x.running(x.id), x.running(x.session), x.lane.seen.free())
			r.detail = r.frozen
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.took = x.lane.seen.frozen()
	if limit := x.lane.maxFreeze + slack; r.took > limit {
		r.frozen = fmt.Sprintf("frozen for %s, more than %s", r.took, limit)
	}
	var out plan.Outcome
	err := x.lane.client.GetWorkflow(x.ctx, x.id, "").Get(x.ctx, &out)
	r.status = ending(err)
	if err != nil {
		r.detail = err.Error()
		return r
	}
	if out.RestorePoint == nil || !out.RestorePoint.Consistent {
		return r
	}
	r.consistent = true
	for _, f := range out.Freezes {
		for _, cut := range f.Proof.Cuts {
			if lie := x.lane.seen.broken(cut); lie != "" {
				r.lie = lie
			}
		}
	}
	if x.lane.kube != nil {
		// Restored in its own tests; here only what is left behind counts.
		x.must(x.act("delete", out.RestorePoint.ID, nil))
		return r
	}
	if lie := x.wrong(out.RestorePoint.ID); lie != nil {
		r.lie = lie.Error()
	}
	return r
}

// wrong says why the data of a restore point that is called consistent is not.
func (x *trial) wrong(restorePoint string) error {
	if err := x.act("verify", restorePoint, x.lane.db.verify); err != nil {
		return err
	}
	if x.lane.db.data == nil {
		return nil
	}
	return x.lane.db.data(x, restorePoint)
}

// act runs an action on a restore point.
func (x *trial) act(action, restorePoint string, options plan.Values) error {
	kind := x.lane.blueprint + "." + action
	run, err := x.lane.client.ExecuteWorkflow(x.ctx, client.StartWorkflowOptions{ID: x.id + "/" + action, TaskQueue: plan.DefaultTaskQueue}, kind,
		plan.Request{From: restorePoint, Options: options, NoApproval: true})
	if err == nil {
		err = run.Get(x.ctx, nil)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", kind, err)
	}
	return nil
}

func ending(err error) string {
	var timeout *temporal.TimeoutError
	var terminated *temporal.TerminatedError
	switch {
	case err == nil:
		return "completed"
	case temporal.IsCanceledError(err):
		return "cancelled"
	case errors.As(err, &terminated):
		return "terminated"
	case errors.As(err, &timeout):
		return "timed out"
	default:
		return "failed"
	}
}

func (x *trial) running(id string) bool {
	ctx, cancel := context.WithTimeout(x.ctx, 5*time.Second)
	defer cancel()
	r, err := x.lane.client.DescribeWorkflowExecution(ctx, id, "")
	if err != nil {
		return !strings.Contains(err.Error(), "not found")
	}
	return r.GetWorkflowExecutionInfo().GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_RUNNING
}

func (x *trial) must(err error) { require.NoError(x.lane.t, err) }

func (x *trial) await(what string, ok func() bool) {
	testenv.Await(x.lane.t, 30*time.Second, what, ok)
}

func (x *trial) later(d time.Duration, f func()) {
	x.timers.Add(1)
	time.AfterFunc(d, func() { defer x.timers.Done(); f() })
}

// blueprint is a library blueprint with the changes of a cell.
type blueprint struct {
	t    testing.TB
	root map[string]any
}

func parse(t testing.TB, text []byte) *blueprint {
	b := &blueprint{t: t}
	require.NoError(t, yaml.Unmarshal(text, &b.root))
	return b
}

func (b *blueprint) text() string {
	out, err := yaml.Marshal(b.root)
	require.NoError(b.t, err)
	return string(out)
}

// freezePhase is the one phase of the backup that freezes.
func (b *blueprint) freezePhase() map[string]any {
	for _, ph := range b.root["actions"].(map[string]any)["backup"].(map[string]any)["phases"].([]any) {
		if m := ph.(map[string]any); m["freeze"] != nil {
			return m
		}
	}
	b.t.Fatal("no freeze in the blueprint's backup")
	return nil
}

func (b *blueprint) setFreeze(k, v string) { b.freezePhase()["freeze"].(map[string]any)[k] = v }

func (b *blueprint) setDo(k, v string) {
	b.freezePhase()["freeze"].(map[string]any)["do"].(map[string]any)[k] = v
}

// addInner adds a phase at the end of the freeze.
func (b *blueprint) addInner(name, fn string, command ...string) {
	ph := b.freezePhase()
	inner, _ := ph["phases"].([]any)
	ph["phases"] = append(inner, map[string]any{"name": name, "func": fn, "args": map[string]any{"command": command}})
}

// setPhase sets an argument of a phase of the backup.
func (b *blueprint) setPhase(name, k, v string) {
	for _, ph := range b.root["actions"].(map[string]any)["backup"].(map[string]any)["phases"].([]any) {
		if m := ph.(map[string]any); m["name"] == name {
			m["args"].(map[string]any)[k] = v
		}
	}
}

func (x *trial) progress() (p plan.Progress, err error) {
	v, err := x.lane.client.QueryWorkflow(x.ctx, x.id, "", plan.QueryProgress)
	if err == nil {
		err = v.Get(&p)
	}
	return p, err
}
