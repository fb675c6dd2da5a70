package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a running component. A pid alone may be another's after a while:
// the time of its start is noted with it.
type process struct {
	Pid   int
	Start string // as /proc counts it
}

func (p paths) pidFile(name string) string { return p.in("run", name+".pid") }
func (p paths) logFile(name string) string { return p.in("logs", name+".log") }

// running returns a component's process, if it lives.
func (p paths) running(name string) (process, bool) {
	var x process
	b, err := os.ReadFile(p.pidFile(name))
	if err != nil || json.Unmarshal(b, &x) != nil {
		return x, false
	}
	start, alive := startTime(x.Pid)
	return x, alive && start == x.Start
}

func startTime(pid int) (start string, alive bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// The second field, a name, may hold anything.
	s := string(b)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 {
		return "", false
	}
	return f[19], f[0] != "Z" && f[0] != "X"
}

// launch starts a component apart from this process and its terminal.
func (p paths) launch(c component) error {
	if _, yes := p.running(c.name); yes {
		return nil
	}
	for _, f := range []string{p.pidFile(c.name), p.logFile(c.name)} {
		if err := os.MkdirAll(filepath.Dir(f), 0o755); err != nil {
			return fmt.Errorf("start %s: %w", c.name, err)
		}
	}
	log, err := os.OpenFile(p.logFile(c.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(c.binary, c.args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, p.state
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Nothing of the caller's: no proxy, no kubeconfig.
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + p.state}, c.env...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", c.name, err)
	}
	go func() { _ = cmd.Wait() }()
	start, _ := startTime(cmd.Process.Pid)
	return writeJSON(p.pidFile(c.name), process{Pid: cmd.Process.Pid, Start: start})
}

// signal sends one to a component that runs.
func (p paths) signal(name string, s syscall.Signal) error {
	x, yes := p.running(name)
	if !yes {
		return fmt.Errorf("%s is not running", name)
	}
	if err := syscall.Kill(x.Pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", name, err)
	}
	return nil
}

// halt stops a component, by SIGTERM and after a grace by SIGKILL. It is
// idempotent.
func (p paths) halt(ctx context.Context, name string, grace time.Duration) error {
	if _, yes := p.running(name); !yes {
		return nil
	}
	if grace > 0 {
		_ = p.signal(name, syscall.SIGCONT) // one that a test has stopped
		if err := p.signal(name, syscall.SIGTERM); err != nil {
			return nil // ended meanwhile
		}
		if p.gone(ctx, name, grace) == nil {
			return nil
		}
	}
	_ = p.signal(name, syscall.SIGKILL)
	return p.gone(ctx, name, 20*time.Second)
}

func (p paths) gone(ctx context.Context, name string, within time.Duration) error {
	return wait(ctx, within, "end of "+name, func() error {
		if x, yes := p.running(name); yes {
			return fmt.Errorf("process %d still runs", x.Pid)
		}
		return nil
	})
}

// errOver is of what will not come, however long one waits.
var errOver = errors.New("no use to wait")

// wait calls f until it succeeds; its last error tells what was missing.
func wait(ctx context.Context, within time.Duration, what string, f func() error) error {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		if errors.Is(err, errOver) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-deadline.C:
			return fmt.Errorf("wait for %s: not within %s: %w", what, within, err)
		case <-tick.C:
		}
	}
}

// processes calls f with each process of the machine.
func processes(f func(pid int, exe string, args []string)) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil {
			continue // ended, or the kernel's
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		f(pid, strings.TrimSuffix(exe, " (deleted)"), strings.Split(strings.TrimRight(string(line), "\x00"), "\x00"))
	}
}

// run runs a command to its end; its output is in the error.
func run(ctx context.Context, name string, args ...string) (string, error) {
	return runInput(ctx, "", name, args...)
}

func runInput(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
