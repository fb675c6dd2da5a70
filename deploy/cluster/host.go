package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sysctls are those that the kubelet and the network change.
var sysctls = []string{
	"net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom",
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

// outside are the directories that the components use outside the state
// directory, whatever they are told.
var outside = []string{"/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd", "/opt/cni", "/opt/containerd", "/etc/cni", "/var/log/pods", "/run/netns", "/usr/libexec/kubernetes"}

// podLogs is where nodes have them, and where the kubelet serves rotated files
// from.
const podLogs = "/var/log/pods"

// host is what the machine was like before `up`.
type host struct {
	Sysctls map[string]string
	Present []string // of outside
}

func sysctlFile(name string) string { return filepath.Join("/proc/sys", name) }

// rememberHost notes it once: a second `up` sees the cluster's own changes.
func (p paths) rememberHost() error {
	if _, err := os.Stat(p.in("host.json")); err == nil {
		return nil
	}
	h := host{Sysctls: map[string]string{}}
	for _, s := range sysctls {
		if b, err := os.ReadFile(sysctlFile(s)); err == nil {
			h.Sysctls[s] = strings.TrimSpace(string(b))
		}
	}
	for _, d := range outside {
		if _, err := os.Stat(d); err == nil {
			h.Present = append(h.Present, d)
		}
	}
	return writeJSON(p.in("host.json"), h)
}

// prepareHost gives the machine the node's address and cgroup.
func (p paths) prepareHost(ctx context.Context) error {
	if out, err := run(ctx, "ip", "-o", "addr", "show", "to", nodeIP); err != nil {
		return err
	} else if out == "" {
		if _, err := run(ctx, "ip", "addr", "add", nodeIP+"/32", "dev", "lo"); err != nil {
			return err
		}
	}
	for _, h := range hierarchies() {
		if err := os.Mkdir(filepath.Join(h, p.cgroup), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); err == nil { // version 2: a child has what its parent hands down
		for _, c := range strings.Fields(string(b)) {
			_ = os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+"+c), 0)
		}
	}
	for _, s := range []string{"cpuset.cpus", "cpuset.mems"} { // of version 1: not inherited
		of := filepath.Join("/sys/fs/cgroup/cpuset", s)
		if b, err := os.ReadFile(of); err == nil {
			if err := os.WriteFile(filepath.Join(filepath.Dir(of), p.cgroup, s), b, 0); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
	}
	if err := keepIn(ctx); err != nil {
		return err
	}
	return os.WriteFile(sysctlFile("net/ipv4/ip_forward"), []byte("1"), 0)
}

// hierarchies are where cgroups are mounted: one, or with version 1 many.
func hierarchies() []string {
	var dirs []string
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		i := slices.Index(f, "-")
		if i > 4 && len(f) > i+1 && (f[i+1] == "cgroup" || f[i+1] == "cgroup2") && f[3] == "/" {
			dirs = append(dirs, f[4])
		}
	}
	return dirs
}

// cgroupDirs are all of ours, the deepest first.
// keepIn refuses what goes to a service that kube-proxy does not know yet, or
// any more: it would leave the machine by the default route.
func keepIn(ctx context.Context) error {
	if _, err := run(ctx, "iptables", "-w", "-t", "filter", "-C", "OUTPUT", "-j", "KUBE-THAW"); err == nil {
		return nil
	}
	for _, rule := range [][]string{{"-N", "KUBE-THAW"}, {"-A", "KUBE-THAW", "-d", svcRange, "-j", "REJECT"}, {"-A", "OUTPUT", "-j", "KUBE-THAW"}} {
		if _, err := run(ctx, "iptables", append([]string{"-w", "-t", "filter"}, rule...)...); err != nil {
			return fmt.Errorf("keep traffic to services in: %w", err)
		}
	}
	return nil
}

func (p paths) cgroupDirs() []string {
	var dirs []string
	for _, h := range hierarchies() {
		_ = filepath.WalkDir(filepath.Join(h, p.cgroup), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// restoreHost puts back what rememberHost has noted.
func (p paths) restoreHost() error {
	b, err := os.ReadFile(p.in("host.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var h host
	if err := json.Unmarshal(b, &h); err != nil {
		return fmt.Errorf("read %s: %w", p.in("host.json"), err)
	}
	var failed error
	for s, was := range h.Sysctls {
		if now, err := os.ReadFile(sysctlFile(s)); err == nil && strings.TrimSpace(string(now)) != was {
			failed = errors.Join(failed, os.WriteFile(sysctlFile(s), []byte(was), 0))
		}
	}
	for _, d := range outside {
		if !slices.Contains(h.Present, d) {
			failed = errors.Join(failed, removeTree(d))
		}
	}
	// In those that were there, what is ours.
	for _, pattern := range []string{"/var/log/containers/*", "/var/lib/cni/results/*", "/run/containerd/s/*"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			if p.left(f) {
				failed = errors.Join(failed, os.Remove(f))
			}
		}
	}
	return failed
}

// left says whether a file outside was left by this cluster: a link into its
// logs, a result of its network, a socket that nobody serves.
func (p paths) left(file string) bool {
	switch filepath.Base(filepath.Dir(file)) {
	case "containers":
		to, _ := os.Readlink(file)
		return strings.HasPrefix(to, p.state+"/")
	case "results":
		b, _ := os.ReadFile(file)
		return strings.Contains(string(b), p.in("cni", "ipam")) || strings.Contains(string(b), p.in("containerd"))
	default:
		b, err := os.ReadFile("/proc/net/unix")
		return err == nil && !strings.Contains(string(b), file)
	}
}

// removeTree removes a directory, unless something is mounted below it.
func removeTree(dir string) error {
	if m := mountsBelow(dir); len(m) > 0 {
		return fmt.Errorf("remove %s: %s is mounted there", dir, m[0])
	}
	return os.RemoveAll(dir)
}

// mountsBelow are at or below a directory, the last mounted first.
func mountsBelow(dir string) []string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	var list []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		path := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
		if path == dir || strings.HasPrefix(path, dir+"/") {
			list = append(list, path)
		}
	}
	slices.Reverse(list)
	return list
}

// tables are where kube-proxy and the kubelet put rules.
var tables = []string{"raw", "mangle", "nat", "filter"}

// kubeRules are, of a table, the chains of Kubernetes and the rules elsewhere
// that lead into them.
func kubeRules(ctx context.Context, iptables, table string) (chains, rules []string, err error) {
	out, err := run(ctx, iptables, "-w", "-t", table, "-S")
	if err != nil {
		return nil, nil, err
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "-N" && strings.HasPrefix(f[1], "KUBE-"):
			chains = append(chains, f[1])
		case f[0] == "-A" && !strings.HasPrefix(f[1], "KUBE-") && strings.Contains(line, "-j KUBE-"):
			rules = append(rules, line)
		}
	}
	return chains, rules, nil
}

// clearRules removes them, each table in one step.
func clearRules(ctx context.Context) error {
	var failed error
	for _, iptables := range []string{"iptables", "ip6tables"} {
		for _, table := range tables {
			chains, rules, err := kubeRules(ctx, iptables, table)
			if err != nil || len(chains)+len(rules) == 0 {
				continue // a table that this kernel has not, or nothing of ours
			}
			var b strings.Builder
			fmt.Fprintf(&b, "*%s\n", table)
			for _, c := range chains {
				fmt.Fprintf(&b, ":%s - [0:0]\n", c)
			}
			for _, r := range rules {
				fmt.Fprintf(&b, "-D %s\n", strings.TrimPrefix(r, "-A "))
			}
			for _, c := range chains {
				fmt.Fprintf(&b, "-X %s\n", c)
			}
			b.WriteString("COMMIT\n")
			if _, err := runInput(ctx, b.String(), iptables+"-restore", "-w", "--noflush"); err != nil {
				failed = errors.Join(failed, fmt.Errorf("clear %s %s: %w", iptables, table, err))
			}
		}
	}
	return failed
}
