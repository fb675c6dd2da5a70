package main

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cluster is one in a directory of its own, by the program as people run it.
type cluster struct {
	t      *testing.T
	binary string
	state  string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Getenv("THAW_REQUIRE_CLUSTER") == "" {
		t.Skip("brings a cluster up and down, which takes minutes: set THAW_REQUIRE_CLUSTER=1")
	}
	require.NoError(t, check(), "THAW_REQUIRE_CLUSTER is set")
	if out, _ := run(t.Context(), "ip", "-o", "addr", "show", "to", nodeIP); out != "" {
		t.Skip("a cluster is up on this machine, and there can be one: make cluster-down")
	}
	dir, err := os.MkdirTemp("", "thaw") // short: sockets' paths are limited
	require.NoError(t, err)
	c := &cluster{t: t, binary: filepath.Join(dir, "thaw-cluster"), state: filepath.Join(dir, "state")}
	_, err = run(t.Context(), "go", "build", "-o", c.binary, ".")
	require.NoError(t, err)
	t.Cleanup(func() {
		if _, err := os.Stat(c.state); err == nil {
			c.thaw("down")
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	return c
}

// in is the same cluster, for a subtest.
func (c *cluster) in(t *testing.T) *cluster { return &cluster{t: t, binary: c.binary, state: c.state} }

func (c *cluster) psql(sql string) string {
	c.t.Helper()
	return c.kubectl("exec", "pg-postgresql-0", "--", "psql", "-qAtU", "postgres", "-c", sql)
}

func (c *cluster) command(args ...string) *exec.Cmd {
	cmd := exec.Command(c.binary, args...)
	cmd.Env = append(os.Environ(), "THAW_CLUSTER_DIR="+c.state)
	return cmd
}

func (c *cluster) try(args ...string) (string, error) {
	cmd := c.command(args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if err != nil {
		c.t.Logf("thaw-cluster %s: %v: %s", strings.Join(args[:min(len(args), 4)], " "), err, stderr.String())
	}
	return out.String(), err
}

func (c *cluster) thaw(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	require.NoError(c.t, err, "thaw-cluster %s", strings.Join(args, " "))
	return strings.TrimSpace(out)
}

func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.thaw(append([]string{"kubectl", "--namespace=shop"}, args...)...)
}

func (c *cluster) apply(text string) {
	c.t.Helper()
	cmd := c.command("kubectl", "--namespace=shop", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(c.t, err, "%s", out)
}

// machine is what a cluster might change of it.
func machine(t *testing.T, state string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for name, c := range map[string][]string{
		"addresses": {"ip", "-o", "addr"}, "routes": {"ip", "route"}, "rules": {"iptables-save"}, "rules of IPv6": {"ip6tables-save"},
		"loop devices": {"losetup", "--noheadings", "--raw", "--output=NAME,BACK-FILE"}, "network namespaces": {"ip", "netns"},
	} {
		out, err := run(t.Context(), c[0], c[1:]...)
		require.NoError(t, err)
		var lines []string
		for line := range strings.Lines(out) {
			// Not the counters, nor how long an address is valid, nor tables and
			// chains that the system has anyway.
			if line = regexp.MustCompile(`valid_lft.*|\[\d+:\d+\]`).ReplaceAllString(strings.TrimSpace(line), ""); line != "" && !regexp.MustCompile(`^(#|\*|COMMIT|:[A-Z]+ ACCEPT)`).MatchString(line) {
				lines = append(lines, line)
			}
		}
		slices.Sort(lines)
		m[name] = strings.Join(lines, "\n")
	}
	for _, s := range sysctls {
		b, _ := os.ReadFile(sysctlFile(s))
		m["sysctl "+s] = strings.TrimSpace(string(b))
	}
	for _, d := range outside {
		_, err := os.Stat(d)
		m["directory "+d] = map[bool]string{true: "there", false: ""}[err == nil]
	}
	m["cgroups"] = cgroupsNamed(t, "thaw-cluster-")
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var points []string
	for line := range strings.Lines(string(b)) {
		points = append(points, strings.Fields(line)[4])
	}
	slices.Sort(points)
	m["mounts"] = strings.Join(points, "\n")
	processes(func(_ int, exe string, args []string) {
		if slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, state) }) {
			m["processes"] += exe + " " + strings.Join(args, " ") + "\n"
		}
	})
	_, err = os.Stat(state)
	m["state"] = map[bool]string{true: "there", false: ""}[err == nil]
	return m
}

func cgroupsNamed(t *testing.T, prefix string) string {
	t.Helper()
	var found []string
	for _, h := range hierarchies() {
		dirs, err := filepath.Glob(filepath.Join(h, prefix+"*"))
		require.NoError(t, err)
		found = append(found, dirs...)
	}
	return strings.Join(found, "\n")
}

func TestClusterIsUsedAndLeavesNothing(t *testing.T) {
	c := newCluster(t)
	before := machine(t, c.state)
	c.thaw("up", "--log-max-size=100Ki")
	start := time.Now()
	c.thaw("up") // again: nothing to do
	t.Logf("a second up took %s", time.Since(start))
	c.thaw("status")

	c.thaw("kubectl", "create", "namespace", "shop")
	for _, app := range []string{"postgres", "mariadb", "redis", "timelog"} {
		c.kubectl("apply", "-f", filepath.Join("apps", app+".yaml"))
	}
	for _, app := range []string{"statefulset/pg-postgresql", "statefulset/mariadb", "statefulset/redis-master", "deployment/time-logger"} {
		c.kubectl("rollout", "status", app, "--timeout=90s")
	}
	c.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")

	t.Run("names of services resolve in pods", func(t *testing.T) {
		c := c.in(t)
		for _, name := range []string{"pg-postgresql.shop.svc.cluster.local", "pg-postgresql", "kubernetes.default.svc"} {
			require.NotEmpty(t, c.kubectl("exec", "deployment/time-logger", "--", "getent", "hosts", name))
		}
		_, err := c.try("kubectl", "--namespace=shop", "exec", "deployment/time-logger", "--", "getent", "hosts", "nobody")
		require.Error(t, err)
	})
	t.Run("kando prints what a phase puts out", func(t *testing.T) {
		c := c.in(t)
		out := c.kubectl("exec", "deployment/time-logger", "--", "kando", "output", "path", "a/b.gz")
		require.Equal(t, `###Phase-output###: {"key":"path","value":"a/b.gz"}`, out)
	})
	t.Run("a snapshot restores", func(t *testing.T) {
		c := c.in(t)
		c.apply(`{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshot, metadata: {name: one}, spec: {source: {persistentVolumeClaimName: data-pg-postgresql-0}}}`)
		c.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "volumesnapshot/one", "--timeout=30s")
		c.psql("DROP TABLE t")
		c.kubectl("scale", "statefulset/pg-postgresql", "--replicas=0")
		c.kubectl("wait", "--for=delete", "pod/pg-postgresql-0", "--timeout=60s")
		c.kubectl("delete", "pvc", "data-pg-postgresql-0")
		c.apply(`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data-pg-postgresql-0}, spec: {storageClassName: thaw-btrfs-2, accessModes: [ReadWriteOnce],
  resources: {requests: {storage: 1Gi}}, dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: one}}}`)
		c.kubectl("scale", "statefulset/pg-postgresql", "--replicas=1")
		c.kubectl("rollout", "status", "statefulset/pg-postgresql", "--timeout=60s")
		require.Equal(t, "1000", c.psql("SELECT count(*) FROM t"))
	})
	t.Run("a group snapshot is made", func(t *testing.T) {
		c := c.in(t)
		c.kubectl("label", "pvc", "data-pg-postgresql-0", "data-mariadb-0", "group=shop")
		c.apply(`{apiVersion: groupsnapshot.storage.k8s.io/v1, kind: VolumeGroupSnapshot, metadata: {name: both}, spec: {source: {selector: {matchLabels: {group: shop}}}}}`)
		c.kubectl("wait", "--for=jsonpath={.status.readyToUse}=true", "volumegroupsnapshot/both", "--timeout=60s")
	})
	t.Run("service accounts have the rights of their roles only", func(t *testing.T) {
		c := c.in(t)
		c.kubectl("create", "serviceaccount", "reader")
		c.kubectl("create", "role", "reader", "--verb=get", "--resource=pods")
		c.kubectl("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=shop:reader")
		token := c.kubectl("create", "token", "reader")
		as := []string{"--server=https://" + nodeIP + ":" + apiPort, "--certificate-authority=" + filepath.Join(c.state, "pki", "ca.crt"), "--token=" + token, "--kubeconfig=/dev/null"}
		c.kubectl(append([]string{"get", "pod", "pg-postgresql-0"}, as...)...)
		_, err := c.try(append([]string{"kubectl", "--namespace=shop", "get", "secret", "redis"}, as...)...)
		require.Error(t, err)
	})
	t.Run("the log of a container is rotated", func(t *testing.T) {
		c := c.in(t)
		c.apply(`{apiVersion: v1, kind: Pod, metadata: {name: chatty}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: main, image: "thaw.dev/test/tools:1",
  command: [bash, -c, "while :; do seq 1000; sleep 0.1; done"]}]}}`)
		require.Eventually(t, func() bool {
			files, _ := filepath.Glob(filepath.Join(podLogs, "shop_chatty_*", "main", "*"))
			return len(files) > 1
		}, time.Minute, 200*time.Millisecond)
	})
	for _, name := range []string{"kube-apiserver", "kubelet", "csi-driver", "containerd", "etcd"} {
		t.Run(name+" is killed and started", func(t *testing.T) {
			c := c.in(t)
			c.thaw("kill", name)
			_, err := c.try("status")
			require.Error(t, err)
			c.thaw("start", name)
			require.Eventually(t, func() bool { _, err := c.try("status"); return err == nil }, time.Minute, 200*time.Millisecond)
			require.Equal(t, "1000", c.psql("SELECT count(*) FROM t"))
		})
	}
	start = time.Now()
	c.thaw("down")
	t.Logf("down took %s", time.Since(start))
	require.Equal(t, before, machine(t, c.state))
}

func TestDownAfterACrashLeavesNothing(t *testing.T) {
	c := newCluster(t)
	before := machine(t, c.state)
	t.Run("everything was killed", func(t *testing.T) {
		c := c.in(t)
		c.thaw("up")
		c.thaw("kubectl", "create", "namespace", "shop")
		c.kubectl("apply", "-f", "apps/redis.yaml")
		c.kubectl("rollout", "status", "statefulset/redis-master", "--timeout=60s")
		p := paths{state: c.state, cache: "/nonexistent"}
		files, err := filepath.Glob(p.in("run", "*.pid"))
		require.NoError(t, err)
		for _, f := range files {
			require.NoError(t, p.halt(context.Background(), strings.TrimSuffix(filepath.Base(f), ".pid"), 0))
		}
		require.NoError(t, os.RemoveAll(p.in("run")))
		c.thaw("down")
		require.Equal(t, before, machine(t, c.state))
	})
	t.Run("up was killed half way", func(t *testing.T) {
		c := c.in(t)
		cmd := c.command("up")
		out, err := cmd.StderrPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		for s := bufio.NewScanner(out); s.Scan(); {
			if strings.Contains(s.Text(), "starting csi-driver") {
				break
			}
		}
		require.NoError(t, cmd.Process.Signal(syscall.SIGKILL))
		require.Error(t, cmd.Wait())
		c.thaw("down")
		require.Equal(t, before, machine(t, c.state))
	})
	t.Run("there is none", func(t *testing.T) { c.in(t).thaw("down") })
}
