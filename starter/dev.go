package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

type devFlags struct {
	data, config, secrets, kubeconfig string
	allow                             []string
	port, uiPort                      int
	ip                                string
}

func devCommand() *cobra.Command {
	f := &devFlags{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run Temporal, its Web UI and a worker on this machine",
		Long: `Dev runs the embedded Temporal server (SQLite, its data kept across restarts), the
Temporal Web UI and one thaw-worker, until it is interrupted. A worker that dies is started
again. Everything listens on loopback, without authentication: it is for one machine.`,
		Example: `  thaw dev
  thaw dev --allow /usr/bin/pg_dump --secrets-dir ~/secrets
  thaw dev --kubeconfig ~/.kube/config
  thaw dev --worker-config thaw-worker.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.data, "data", dataDir(), "directory of all data (default: $THAW_DEV_DIR)")
	fl.IntVar(&f.port, "port", 7233, "port of Temporal; 0 picks a free one")
	fl.IntVar(&f.uiPort, "ui-port", 8233, "port of the Web UI; 0 is off, -1 picks a free one")
	fl.StringVar(&f.ip, "ip", "127.0.0.1", "address to listen on")
	fl.StringVar(&f.config, "worker-config", "", "configuration file of the worker")
	fl.StringVar(&f.secrets, "secrets-dir", "", "secrets: one folder each, one file a key")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "Kubernetes cluster that the worker works on, too")
	fl.StringSliceVar(&f.allow, "allow", nil, "commands that the worker's Exec may run")
	return cmd
}

func (f *devFlags) run(ctx context.Context, out io.Writer) error {
	server, err := sibling("thaw-server", "make build")
	if err != nil {
		return err
	}
	worker, err := sibling("thaw-worker", "make build")
	if err != nil {
		return err
	}
	data, err := filepath.Abs(f.data)
	if err != nil {
		return fmt.Errorf("--data %s: %w", f.data, err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("--data: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ready := filepath.Join(data, "server.json")
	_ = os.Remove(ready)
	s, err := start(ctx, server, filepath.Join(data, "server.log"), nil, "--data", filepath.Join(data, "temporal"), "--ip", f.ip,
		"--port", strconv.Itoa(f.port), "--ui-port", strconv.Itoa(f.uiPort), "--ready-file", ready, "--die-with-parent")
	if err != nil {
		return err
	}
	defer s.end()
	d := dev{PID: os.Getpid(), Location: filepath.Join(data, "restorepoints")}
	if err := await(ctx, s, ready, &d); err != nil {
		return err
	}
	file := filepath.Join(data, "dev.json")
	defer func() { _ = os.Remove(file) }()
	args := []string{"--state-dir", filepath.Join(data, "worker"), "--location", d.Location, "--log-level", "info"}
	for flag, v := range map[string]string{"--config": f.config, "--secrets-dir": f.secrets, "--kubeconfig": f.kubeconfig} {
		if v != "" {
			args = append(args, flag, v)
		}
	}
	for _, a := range f.allow {
		args = append(args, "--allow", a)
	}
	_, _ = fmt.Fprintf(out, "Temporal     %s\nWeb UI       %s\nData         %s\nWorker log   %s\n", d.Address, dash(d.UI), data, filepath.Join(data, "worker.log"))
	for ctx.Err() == nil {
		w, err := start(ctx, worker, filepath.Join(data, "worker.log"), []string{"TEMPORAL_ADDRESS=" + d.Address}, args...)
		if err != nil {
			return err
		}
		d.Worker, d.PID = w.cmd.Process.Pid, os.Getpid()
		if err := writeJSON(file, d); err != nil {
			w.end()
			return err
		}
		select {
		case <-ctx.Done():
			w.end()
		case <-s.done:
			w.end()
			return fmt.Errorf("the Temporal server ended: %w; see %s", s.err, s.log)
		case <-w.done:
			_, _ = fmt.Fprintf(out, "Worker       ended (%v); starting it again\n", w.err)
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
	return nil
}

// await waits until the server says that it is ready.
func await(ctx context.Context, s *process, ready string, d *dev) error {
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		if b, err := os.ReadFile(ready); err == nil && json.Unmarshal(b, d) == nil && d.Address != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.done:
			return fmt.Errorf("the Temporal server did not start: %w; see %s", s.err, s.log)
		case <-t.C:
		}
	}
}

// sibling finds a program of Thaw beside this one, or on PATH.
func sibling(name, make string) (string, error) {
	if self, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(self), name)
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	p, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside thaw nor on PATH; build it with: %s", name, make)
	}
	return p, nil
}

// process is a child that was started, with its output in a log.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error
	once sync.Once
}

func start(ctx context.Context, bin, log string, env []string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	// Its end is ours to give: a cancel must not kill it before its freezes end.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), bin, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = f, f, append(os.Environ(), env...)
	// A Ctrl-C is for thaw, which ends its children in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", bin, err), f.Close())
	}
	p := &process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		p.err = errors.Join(cmd.Wait(), f.Close())
		close(p.done)
	}()
	return p, nil
}

// end stops the process, with time to let its freezes end.
func (p *process) end() {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(40 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
}

func writeJSON(file string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(file+".tmp", file)
}
