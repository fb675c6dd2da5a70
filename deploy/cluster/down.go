package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// down takes all of the cluster away: it goes by what there is, not by what was
// noted, so it works after a crash, or an `up` that did not end. The cluster's
// data is lost, so nothing is asked to end in peace.
func (p paths) down(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("take the cluster down: run this as root")
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	start := time.Now()
	progress("stopping processes")
	if err := wait(ctx, time.Minute, "end of processes", func() error {
		left := p.ours()
		for _, pid := range left {
			// Those that a test has stopped too.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%d still run: %v", len(left), left)
		}
		return nil
	}); err != nil {
		return err
	}
	progress("undoing mounts, network and sysctls")
	var failed error
	for _, m := range mountsBelow(p.state) {
		if err := unix.Unmount(m, 0); err != nil {
			failed = errors.Join(failed, unix.Unmount(m, unix.MNT_DETACH))
		}
	}
	failed = errors.Join(failed, p.freeLoops(ctx), clearRules(ctx), p.clearNetwork(ctx), p.clearCgroups(ctx), p.restoreHost())
	if left := p.leftovers(ctx); len(left) > 0 {
		failed = errors.Join(failed, fmt.Errorf("left of the cluster: %s", strings.Join(left, "; ")))
	}
	if failed != nil {
		return fmt.Errorf("take the cluster down: %w; try again", failed)
	}
	if err := removeTree(p.state); err != nil {
		return fmt.Errorf("take the cluster down: %w", err)
	}
	if err := os.Remove(p.state + ".lock"); err != nil {
		return fmt.Errorf("take the cluster down: %w", err)
	}
	progress("down after %s; %s is kept", time.Since(start).Round(100*time.Millisecond), p.cache)
	return nil
}

// ours are the cluster's processes: what was started by it, whatever is in the
// pods' cgroups, and what works for its containerd.
func (p paths) ours() []int {
	found := map[int]bool{}
	files, _ := filepath.Glob(p.in("run", "*.pid"))
	for _, f := range files {
		if x, yes := p.running(strings.TrimSuffix(filepath.Base(f), ".pid")); yes {
			found[x.Pid] = true
		}
	}
	for _, d := range p.cgroupDirs() {
		b, _ := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		for line := range strings.Lines(string(b)) {
			if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
				if _, alive := startTime(pid); alive {
					found[pid] = true
				}
			}
		}
	}
	// Those whose pid file is lost, and containerd's shims.
	processes(func(pid int, exe string, args []string) {
		name := filepath.Base(exe)
		known := slices.Contains([]string{"etcd", "containerd", "containerd-shim-runc-v2", "runc", "thaw-cluster"}, name) || strings.HasPrefix(exe, filepath.Join(p.cache, version)+"/")
		if known && name != "kubectl" && slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, p.state+"/") }) {
			if _, alive := startTime(pid); alive {
				found[pid] = true
			}
		}
	})
	var pids []int
	for pid := range found {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids
}

// loops are the loop devices of the pool; they go with its mount, in a moment.
func (p paths) loops(ctx context.Context) []string {
	out, err := run(ctx, "losetup", "--noheadings", "--raw", "--output=NAME,BACK-FILE")
	if err != nil {
		return nil
	}
	var devices []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], p.state+"/") {
			devices = append(devices, f[0])
		}
	}
	return devices
}

func (p paths) freeLoops(ctx context.Context) error {
	return wait(ctx, 10*time.Second, "loop devices to be free", func() error {
		for _, d := range p.loops(ctx) {
			if _, err := run(ctx, "losetup", "--detach", d); err != nil {
				return err
			}
		}
		if left := p.loops(ctx); len(left) > 0 {
			return fmt.Errorf("%v still used", left)
		}
		return nil
	})
}

// veths are the host's ends of the pods' networks, recognized by the address
// that all of them have.
func veths(ctx context.Context) []string {
	out, err := run(ctx, "ip", "-o", "addr", "show", "to", podRouter)
	if err != nil {
		return nil
	}
	var names []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 {
			names = append(names, f[1])
		}
	}
	return names
}

func (p paths) clearNetwork(ctx context.Context) error {
	err := wait(ctx, 10*time.Second, "end of the pods' networks", func() error {
		left := veths(ctx)
		for _, v := range left {
			_, _ = run(ctx, "ip", "link", "delete", v) // it may go by itself
		}
		if len(left) > 0 {
			return fmt.Errorf("%v are there", left)
		}
		return nil
	})
	if out, _ := run(ctx, "ip", "-o", "addr", "show", "to", nodeIP); out != "" {
		_, e := run(ctx, "ip", "addr", "del", nodeIP+"/32", "dev", "lo")
		err = errors.Join(err, e)
	}
	return err
}

func (p paths) clearCgroups(ctx context.Context) error {
	return wait(ctx, 10*time.Second, "cgroups to be empty", func() error {
		var failed error
		for _, d := range p.cgroupDirs() {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				failed = err
			}
		}
		return failed
	})
}

// leftovers is what there is of the cluster outside its state directory.
func (p paths) leftovers(ctx context.Context) []string {
	var left []string
	note := func(what string, list ...string) {
		if len(list) > 0 {
			left = append(left, what+" "+strings.Join(list, ", "))
		}
	}
	for _, pid := range p.ours() {
		note("process", strconv.Itoa(pid))
	}
	note("mount", mountsBelow(p.state)...)
	note("loop device", p.loops(ctx)...)
	note("network interface", veths(ctx)...)
	note("cgroup", p.cgroupDirs()...)
	if out, _ := run(ctx, "ip", "-o", "addr", "show", "to", nodeIP); out != "" {
		note("address", nodeIP)
	}
	for _, iptables := range []string{"iptables", "ip6tables"} {
		for _, table := range tables {
			if chains, rules, err := kubeRules(ctx, iptables, table); err == nil {
				note(iptables+" "+table+" chain", chains...)
				note(iptables+" "+table+" rule", rules...)
			}
		}
	}
	return left
}
