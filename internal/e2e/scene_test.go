// Package e2e types what a person types, on a real Temporal server and a real
// worker: the commands of thaw and of the temporal CLI, as the README and the
// operators' guide have them.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
	"thaw/worker/wiring"
)

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(m.Run())
}

// scene is a SQLite database under write load, a Temporal server, and a worker.
type scene struct {
	t      *testing.T
	dir    string
	db     *testdb.SQLite
	server *testenv.Server
	client client.Client
	cfg    *wiring.Config
	worker *testenv.Process
}

func newScene(t *testing.T, allow ...string) *scene {
	t.Helper()
	return sceneOf(t, func(cfg *wiring.Config) { cfg.Exec.Allow = allow })
}

// sceneOf is a scene whose worker has been told more.
func sceneOf(t *testing.T, tell func(*wiring.Config)) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir(), db: testdb.NewSQLite(t)}
	s.db.StartLoad()
	s.cfg = testenv.Config(s.dir)
	tell(s.cfg)
	s.server = testenv.StartServer(t, filepath.Join(s.dir, "server"))
	s.client = s.server.Client()
	s.worker = testenv.StartWorker(t, s.server, s.cfg, nil)
	return s
}

// in is the scene for a subtest.
func (s *scene) in(t *testing.T) *scene {
	c := *s
	c.t = t
	return &c
}

func (s *scene) target() string { return "sqlite:" + s.db.Path }

// command runs a program of bin/ and returns what it wrote.
func (s *scene) command(bin string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	cmd := s.server.Command(ctx, bin, args...)
	cmd.Env = append(cmd.Env, "THAW_USER=ann")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// thaw runs thaw, which must succeed.
func (s *scene) thaw(args ...string) string {
	s.t.Helper()
	out, errs, err := s.command("thaw", args...)
	require.NoError(s.t, err, "thaw %s: %s%s", strings.Join(args, " "), out, errs)
	return out
}

// refused runs a program, which must fail with these words.
func (s *scene) refused(words, bin string, args ...string) {
	s.t.Helper()
	out, errs, err := s.command(bin, args...)
	require.Error(s.t, err, "%s %s: %s", bin, strings.Join(args, " "), out)
	require.Contains(s.t, errs+out, words)
}

// temporal runs the temporal CLI, which must succeed.
func (s *scene) temporal(args ...string) string {
	s.t.Helper()
	out, errs, err := s.command("temporal", args...)
	require.NoError(s.t, err, "temporal %s: %s%s", strings.Join(args, " "), out, errs)
	return out
}

func (s *scene) progress(id string) (p plan.Progress) {
	v, err := s.client.QueryWorkflow(s.t.Context(), id, "", plan.QueryProgress)
	if err == nil {
		err = v.Get(&p)
	}
	if err != nil {
		return plan.Progress{State: err.Error()}
	}
	return p
}

func (s *scene) awaitState(id, state string) plan.Progress {
	s.t.Helper()
	var p plan.Progress
	testenv.Await(s.t, 40*time.Second, id+" is "+state, func() bool { p = s.progress(id); return p.State == state })
	return p
}

func (s *scene) frozen() bool { return time.Since(s.db.LastCommit()) > 200*time.Millisecond }

// result waits for a run's end.
func (s *scene) result(id string) (out plan.Outcome, err error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	err = s.client.GetWorkflow(ctx, id, "").Get(ctx, &out)
	return out, err
}

// backup makes a restore point.
func (s *scene) backup() *plan.RestorePoint {
	s.t.Helper()
	var out plan.Outcome
	require.NoError(s.t, json.Unmarshal([]byte(s.thaw("run", "sqlite.backup", "--target", s.target(), "-o", "json")), &out))
	require.NotNil(s.t, out.RestorePoint)
	require.True(s.t, out.RestorePoint.Consistent, out.RestorePoint.Consistency)
	return out.RestorePoint
}

// edited writes the sqlite blueprint with changes to its backup's phases.
func (s *scene) edited(name string, edit func(phases []any) []any) string {
	s.t.Helper()
	text, err := library.Load("sqlite")
	require.NoError(s.t, err)
	var bp map[string]any
	require.NoError(s.t, yaml.Unmarshal(text, &bp))
	backup := bp["actions"].(map[string]any)["backup"].(map[string]any)
	backup["phases"] = edit(backup["phases"].([]any))
	text, err = yaml.Marshal(bp)
	require.NoError(s.t, err)
	file := filepath.Join(s.dir, name+".yaml")
	require.NoError(s.t, os.WriteFile(file, text, 0o600))
	return file
}

// slow holds the freeze for a while.
func (s *scene) slow(hold string) string {
	return s.edited("slow", func(phases []any) []any {
		f := phases[0].(map[string]any)
		f["phases"] = append(f["phases"].([]any), map[string]any{"name": "slowDisk", "func": "Wait", "args": map[string]any{"for": hold}})
		return phases
	})
}
