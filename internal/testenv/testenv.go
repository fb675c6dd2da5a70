// Package testenv runs the real thing for tests: the embedded Temporal server
// and workers in processes of their own, which can be killed with -9, and
// faults at named points of a freeze. A test binary that uses it calls Main
// first thing in its TestMain. Start with StartServer and StartWorker.
package testenv

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"

	"thaw/activities/sql"
	"thaw/internal/testdb"
	"thaw/worker/wiring"
)

const (
	envWorker = "THAW_TEST_WORKER"
	envFault  = "THAW_TEST_FAULT"
)

// Main turns the process into a worker or a helper, where it was started as
// one, and then does not return.
func Main() {
	sql.HelperMain()
	testdb.ChildMain()
	text := os.Getenv(envWorker)
	if text == "" {
		return
	}
	var cfg wiring.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	wrap, err := faults(os.Getenv(envFault))
	if err == nil {
		ctx, stop := notify()
		err = wiring.Run(ctx, &cfg, wrap)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// root is the repository's directory.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Server is an embedded Temporal server in a process of its own.
type Server struct {
	Address string `json:"address"`
	UI      string `json:"ui"`
	t       testdb.TB
	data    string
	proc    *Process
}

// StartServer starts one on free ports; it stops with the test.
func StartServer(t testdb.TB, data string) *Server {
	t.Helper()
	s := &Server{t: t, data: data}
	s.start("0", "-1")
	t.Cleanup(func() { s.proc.Kill() })
	return s
}

func (s *Server) start(port, uiPort string) {
	s.t.Helper()
	bin := filepath.Join(root(), "bin", "thaw-server")
	if _, err := os.Stat(bin); err != nil {
		s.t.Fatalf("%s is not built; run: make bin/thaw-server", bin)
	}
	ready := filepath.Join(s.data, "ready.json")
	_ = os.Remove(ready)
	s.proc = Start(s.t, filepath.Join(s.data, "server.log"), nil, bin, "--data", filepath.Join(s.data, "temporal"), "--port", port, "--ui-port", uiPort, "--ready-file", ready, "--die-with-parent")
	Await(s.t, 60*time.Second, "the Temporal server is ready", func() bool {
		b, err := os.ReadFile(ready)
		return err == nil && json.Unmarshal(b, s) == nil && s.Address != ""
	})
}

// Kill ends the server as a crash would.
func (s *Server) Kill() { s.proc.Kill() }

// Restart starts it again on the same data and port.
func (s *Server) Restart() {
	s.t.Helper()
	port := s.Address[strings.LastIndexByte(s.Address, ':')+1:]
	s.start(port, "0")
}

// Command is a program of bin/ that talks to the server.
func (s *Server) Command(ctx context.Context, bin string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(root(), "bin", bin), args...)
	cmd.Env = append(os.Environ(), "TEMPORAL_ADDRESS="+s.Address)
	return cmd
}

// Client dials the server.
func (s *Server) Client() client.Client {
	s.t.Helper()
	c, err := client.NewLazyClient(client.Options{HostPort: s.Address, Logger: log.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	if err != nil {
		s.t.Fatalf("dial Temporal: %v", err)
	}
	s.t.Cleanup(c.Close)
	return c
}

// StartWorker starts a worker process with this configuration and, where not
// nil, a fault. It returns when the worker takes work.
func StartWorker(t testdb.TB, s *Server, cfg *wiring.Config, fault *Fault) *Process {
	t.Helper()
	c := *cfg
	c.ReadyFile = filepath.Join(cfg.StateDir, "ready")
	if err := os.MkdirAll(c.StateDir, 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	_ = os.Remove(c.ReadyFile)
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatalf("%v", err)
	}
	env := []string{envWorker + "=" + string(text), "TEMPORAL_ADDRESS=" + s.Address}
	if fault != nil {
		env = append(env, envFault+"="+fault.encode(t))
	}
	p := Start(t, filepath.Join(cfg.StateDir, "worker.log"), env, os.Args[0])
	t.Cleanup(p.Kill)
	Await(t, 60*time.Second, "the worker is ready", func() bool {
		_, err := os.Stat(c.ReadyFile)
		return err == nil
	})
	return p
}

// Config is a worker's configuration under dir.
func Config(dir string) *wiring.Config {
	c := wiring.Default()
	c.StateDir, c.Location, c.SecretsDir = filepath.Join(dir, "state"), filepath.Join(dir, "restorepoints"), filepath.Join(dir, "secrets")
	c.Log.Level = "debug"
	return c
}

// WriteSecret makes a secret that workers of the configuration find.
func WriteSecret(t testdb.TB, cfg *wiring.Config, name string, data map[string][]byte) {
	t.Helper()
	dir := filepath.Join(cfg.SecretsDir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("%v", err)
	}
	for k, v := range data {
		if err := os.WriteFile(filepath.Join(dir, k), v, 0o600); err != nil {
			t.Fatalf("%v", err)
		}
	}
}

// Process is a child process of a test.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts a program with its output in a log.
func Start(t testdb.TB, log string, env []string, bin string, args ...string) *Process {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatalf("%v", err)
	}
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("%v", err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = append(clean(os.Environ()), env...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", bin, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		_ = f.Close()
		close(p.done)
	}()
	return p
}

// clean drops what must not leak from the caller's environment.
func clean(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "TEMPORAL_") && !strings.HasPrefix(e, "THAW_TEST_") {
			out = append(out, e)
		}
	}
	return out
}

// Kill ends the process with -9, and waits until it is gone.
func (p *Process) Kill() { p.Signal(syscall.SIGKILL); <-p.done }

// Stop ends it in order.
func (p *Process) Stop() { p.Signal(syscall.SIGTERM); <-p.done }

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) { _ = p.cmd.Process.Signal(s) }

// PID of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Running reports whether it has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Await waits for a condition, with a deadline that is a failure.
func Await(t testdb.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Log reads a process's log, for failures.
func Log(w io.Writer, file string) {
	b, err := os.ReadFile(file)
	if err == nil {
		_, _ = w.Write(b)
	}
}

// Context is one that ends after a limit, in a test's own time.
func Context(t testdb.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// Count counts the events of runs, and what Temporal Cloud would bill for them:
// starts, activities, timers, signals, updates, upserts, markers of side
// effects.
func Count(t testdb.TB, c client.Client, workflows ...string) (events, actions int) {
	t.Helper()
	for _, w := range workflows {
		history := c.GetWorkflowHistory(context.Background(), w, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		for history.HasNext() {
			ev, err := history.Next()
			if err != nil {
				t.Fatalf("history of %s: %v", w, err)
			}
			events++
			switch ev.GetEventType() {
			case enums.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, enums.EVENT_TYPE_TIMER_STARTED,
				enums.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, enums.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED,
				enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES, enums.EVENT_TYPE_MARKER_RECORDED:
				actions++
			}
		}
	}
	return events, actions
}
