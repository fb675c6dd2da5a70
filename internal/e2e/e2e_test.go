package e2e

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"thaw/blueprints/plan"
	"thaw/internal/testenv"
)

// The commands of the README, typed: a backup and a restore by the temporal
// CLI alone, approved once by Update and once by signal.
func TestTemporalCLI(t *testing.T) {
	s := newScene(t)
	input := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return string(b)
	}
	target := map[string]any{"target": map[string]string{"kind": "sqlite", "name": s.db.Path}}
	s.temporal("workflow", "start", "--type", "sqlite.backup", "--task-queue", "thaw", "--workflow-id", "b1", "--input", input(target))
	out, err := s.result("b1")
	require.NoError(t, err)
	require.True(t, out.RestorePoint.Consistent)

	for _, by := range []string{"update", "signal"} {
		t.Run("approve by "+by, func(t *testing.T) {
			s := s.in(t)
			id := "restore-" + by
			s.temporal("workflow", "start", "--type", "sqlite.restore", "--task-queue", "thaw", "--workflow-id", id, "--input", input(map[string]any{"from": out.RestorePoint.ID}))
			p := s.awaitState(id, "waiting-for-approval")
			op := input(plan.Operation{By: "bob", Digest: p.Digest})
			switch by {
			case "update":
				s.temporal("workflow", "update", "execute", "--workflow-id", id, "--name", "approve", "--input", op)
			case "signal":
				s.temporal("workflow", "signal", "--workflow-id", id, "--name", "approve", "--input", op)
			}
			_, err := s.result(id)
			require.NoError(t, err)
		})
	}
	t.Run("a wrong input says all that is wrong", func(t *testing.T) {
		s := s.in(t)
		s.temporal("workflow", "start", "--type", "sqlite.backup", "--task-queue", "thaw", "--workflow-id", "bad", "--input", `{"target":{"kind":"sqlite","name":"/nowhere.db"},"options":{"speed":"fast"}}`)
		_, err := s.result("bad")
		require.ErrorContains(t, err, "speed")
	})
	t.Run("an action of a blueprint that nobody has", func(t *testing.T) {
		s := s.in(t)
		s.temporal("workflow", "start", "--type", "oracle.backup", "--task-queue", "thaw", "--workflow-id", "none", "--input", input(target))
		_, err := s.result("none")
		require.ErrorContains(t, err, "oracle")
	})
}

func TestThawNow(t *testing.T) {
	s := newScene(t)
	file := s.slow("20s")
	how := map[string]func(s *scene, id, session string){
		"thaw": func(s *scene, id, _ string) { s.thaw("now", id, "--by", "bob", "--reason", "checkout is down") },
		"thaw, by session": func(s *scene, _, session string) {
			s.thaw("now", session, "--by", "bob", "--reason", "checkout is down")
		},
		"temporal": func(s *scene, id, _ string) {
			s.temporal("workflow", "update", "execute", "--workflow-id", id, "--name", "thaw", "--input", `{"by":"bob","reason":"checkout is down"}`)
		},
		"signal": func(s *scene, id, _ string) {
			s.temporal("workflow", "signal", "--workflow-id", id, "--name", "thaw", "--input", `{"by":"bob","reason":"checkout is down"}`)
		},
	}
	for name, now := range how {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			id := "now-" + name
			s.thaw("run", "sqlite.backup", "--target", s.target(), "-f", file, "--id", id, "--detach")
			testenv.Await(t, 20*time.Second, "frozen", s.frozen)
			s.awaitState(id, "frozen")
			now(s, id, plan.FreezeID(plan.Target{Kind: "sqlite", Name: s.db.Path}))
			at := time.Now()
			testenv.Await(t, 2*time.Second, "thawed at once", func() bool { return !s.frozen() })
			_, err := s.result(id)
			require.ErrorContains(t, err, "bob")
			require.ErrorContains(t, err, "checkout is down")
			t.Logf("thawed %s after it was asked", time.Since(at))
		})
	}
	s.refused("nothing is frozen", "thaw", "now", s.quickRun(), "--reason", "x")
}

// quickRun is a run that waits, with nothing frozen.
func (s *scene) quickRun() string {
	id := fmt.Sprintf("waits-%d", time.Now().UnixNano())
	s.thaw("run", "sqlite.backup", "--target", s.target(), "--approval", "--id", id, "--detach")
	s.awaitState(id, "waiting-for-approval")
	return id
}

func TestPauseRetryAndSkip(t *testing.T) {
	s := newScene(t)
	// The export goes to a directory that is a file: it fails until its
	// operator gives it another.
	blocked := filepath.Join(s.dir, "blocked")
	require.NoError(t, os.WriteFile(blocked, nil, 0o600))
	file := s.edited("broken", func(phases []any) []any {
		for _, ph := range phases {
			if m := ph.(map[string]any); m["name"] == "export" {
				m["args"].(map[string]any)["archive"] = blocked + "/x.tar.zst"
			}
		}
		return append(phases, map[string]any{"name": "tell", "func": "Wait", "args": map[string]any{"for": "1h"}})
	})
	good := filepath.Join(s.dir, "other.tar.zst")
	tools := map[string]struct{ retry, skip, pause, resume func(s *scene, id string) }{
		"thaw": {
			retry:  func(s *scene, id string) { s.thaw("retry", id, "export", "--arg", "archive="+good, "--by", "bob") },
			skip:   func(s *scene, id string) { s.thaw("skip", id, "tell", "--reason", "nobody to tell", "--by", "bob") },
			pause:  func(s *scene, id string) { s.thaw("pause", id) },
			resume: func(s *scene, id string) { s.thaw("resume", id) },
		},
		"temporal": {
			retry: func(s *scene, id string) {
				s.temporal("workflow", "update", "execute", "--workflow-id", id, "--name", "retry", "--input", `{"by":"bob","phase":"export","args":{"archive":"`+good+`"}}`)
			},
			skip: func(s *scene, id string) {
				s.temporal("workflow", "update", "execute", "--workflow-id", id, "--name", "skip", "--input", `{"by":"bob","phase":"tell","reason":"nobody to tell"}`)
			},
			pause: func(s *scene, id string) {
				s.temporal("workflow", "update", "execute", "--workflow-id", id, "--name", "pause", "--input", `{"by":"bob"}`)
			},
			resume: func(s *scene, id string) {
				s.temporal("workflow", "signal", "--workflow-id", id, "--name", "resume", "--input", `{"by":"bob"}`)
			},
		},
	}
	for name, tool := range tools {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			id := "steps-" + name
			s.thaw("run", "sqlite.backup", "--target", s.target(), "-f", file, "--id", id, "--detach", "--on-failure", "pause")
			p := s.awaitState(id, "failed-waiting-for-operator")
			require.Contains(t, p.WaitingFor, "export")
			require.False(t, s.frozen(), "a run that waits holds no freeze")
			s.refused("no phase \"nonsense\"", "thaw", "retry", id, "nonsense")
			s.refused("--reason", "thaw", "skip", id, "tell")
			tool.pause(s, id)
			tool.skip(s, id)
			tool.retry(s, id)
			s.awaitState(id, "paused")
			tool.resume(s, id)
			out, err := s.result(id)
			require.NoError(t, err)
			require.Len(t, out.RestorePoint.Skipped, 1)
			assert.Equal(t, "bob: nobody to tell", out.RestorePoint.Skipped[0].Note)
			assert.FileExists(t, good)
			require.NoError(t, os.Remove(good))
		})
	}
}

func TestApprovalsAreRefused(t *testing.T) {
	s := newScene(t)
	id := "four-eyes"
	s.thaw("run", "sqlite.backup", "--target", s.target(), "--four-eyes", "--approver", "bob,ann", "--by", "ann", "--id", id, "--detach")
	p := s.awaitState(id, "waiting-for-approval")
	s.refused("somebody else approves", "thaw", "approve", id, "--digest", p.Digest, "--by", "ann")
	s.refused("not among the approvers", "thaw", "approve", id, "--digest", p.Digest, "--by", "eve")
	s.refused("read it again", "thaw", "approve", id, "--digest", "sha256:0", "--by", "bob")
	s.refused("read it again", "temporal", "workflow", "update", "execute", "--workflow-id", id, "--name", "approve", "--input", `{"by":"bob","digest":"sha256:0"}`)
	s.thaw("approve", id, "--digest", p.Digest, "--by", "bob")
	_, err := s.result(id)
	require.NoError(t, err)

	id = "expired"
	s.temporal("workflow", "start", "--type", "sqlite.backup", "--task-queue", "thaw", "--workflow-id", id, "--input",
		`{"target":{"kind":"sqlite","name":"`+s.db.Path+`"},"approval":{"timeout":"1s"}}`)
	_, err = s.result(id)
	require.ErrorContains(t, err, "expired after 1s")
}

// A dry run shows everything and touches nothing: no write is held up, no
// file changes, no freeze is made.
func TestPlanTouchesNothing(t *testing.T) {
	s := newScene(t)
	rp := s.backup()
	before := s.files()
	var stalled time.Duration
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				stalled = max(stalled, time.Since(s.db.LastCommit()))
			}
		}
	}()
	text := s.thaw("run", "sqlite.backup", "--target", s.target(), "--plan", "--id", "dry-backup")
	for _, want := range []string{"digest     sha256:", "hold: FREEZE, 1m0s at most", "SQLFreeze", "SQLThaw", s.db.Path, "capture: SnapshotPath", "«capture.Output.path»"} {
		assert.Contains(t, text, want)
	}
	s.temporal("workflow", "start", "--type", "sqlite.restore", "--task-queue", "thaw", "--workflow-id", "dry", "--input", `{"plan":true,"from":"`+rp.ID+`"}`)
	out, err := s.result("dry")
	require.NoError(t, err)
	require.NotNil(t, out.Plan)
	close(stop)
	<-done
	assert.Less(t, stalled, 5*time.Second)
	assert.Equal(t, before, s.files())
	for _, id := range []string{"dry-backup", "dry"} {
		var did []string
		for _, ev := range testenv.History(t.Context(), t, s.client, id, "").GetEvents() {
			if a := ev.GetActivityTaskScheduledEventAttributes(); a != nil {
				did = append(did, a.GetActivityType().GetName())
			}
			assert.Nil(t, ev.GetStartChildWorkflowExecutionInitiatedEventAttributes(), "%s started a freeze", id)
		}
		assert.Equal(t, []string{plan.ActivityPlan}, did, "%s did more than plan", id)
	}
	r, err := s.client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: "default", Query: "WorkflowType = 'FreezeSession' AND StartTime > '" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + "'"})
	require.NoError(t, err)
	assert.LessOrEqual(t, r.GetCount(), int64(1), "only the backup before made a freeze")
}

// files lists what a run could write: names and times of the worker's
// directories and of the database's directory, without what its writer makes.
func (s *scene) files() (list []string) {
	for _, root := range []string{s.cfg.StateDir, s.cfg.Location, filepath.Dir(s.db.Path)} {
		require.NoError(s.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasPrefix(path, s.db.Path) || strings.HasSuffix(path, ".log") {
				return err
			}
			info, err := d.Info()
			if err == nil {
				list = append(list, fmt.Sprint(path, info.Size(), info.ModTime().UnixNano()))
			}
			return err
		}))
	}
	return list
}

// Two backups of one target exclude each other, however they were started and
// whatever name of the file they use.
func TestOneFreezeOfATargetAtATime(t *testing.T) {
	s := newScene(t)
	s.thaw("run", "sqlite.backup", "--target", s.target(), "-f", s.slow("40s"), "--id", "first", "--detach")
	s.awaitState("first", "frozen")
	link := filepath.Join(s.dir, "link.db")
	require.NoError(t, os.Symlink(s.db.Path, link))
	s.thaw("run", "sqlite.backup", "--target", "sqlite:"+link, "--id", "second", "--detach")
	_, err := s.result("second")
	require.ErrorContains(t, err, "is frozen by another run")
	s.thaw("cancel", "first")
	_, err = s.result("first")
	require.Error(t, err)
	testenv.Await(t, 5*time.Second, "thawed", func() bool { return !s.frozen() })
	s.backup()
}
