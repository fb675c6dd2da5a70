package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"thaw/deploy/cluster/images"
)

//go:embed manifests
var manifests embed.FS

// needs are the programs that Debian has, and the package of each.
var needs = map[string]string{
	"etcd": "etcd-server", "containerd": "containerd", "ctr": "containerd", "runc": "runc", "/usr/lib/cni/ptp": "containernetworking-plugins",
	"iptables": "iptables", "conntrack": "conntrack", "socat": "socat", "mkfs.btrfs": "btrfs-progs", "debootstrap": "debootstrap",
	"ip": "iproute2", "mount": "mount", "unshare": "util-linux",
}

// up brings the cluster up, or what of it is missing. After a failure, `down`
// takes away what there is, and another `up` goes on from there.
func (p paths) up(ctx context.Context, o options) error {
	if err := check(); err != nil {
		return err
	}
	unlock, err := p.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(p.in("host.json")); err != nil {
		if left := p.leftovers(ctx); len(left) > 0 {
			return fmt.Errorf("this machine has another cluster, or what is left of one: %s; take it down first (its THAW_CLUSTER_DIR is not %s)", strings.Join(left, "; "), p.state)
		}
	}
	start := time.Now()
	base, bin, err := p.makeCache(ctx)
	if err != nil {
		return err
	}
	progress("preparing the machine: address %s, certificates", nodeIP)
	for _, step := range []func() error{
		p.rememberHost,
		func() error { return p.prepareHost(ctx) },
		p.makePKI,
		func() error { return writeJSON(p.in("options.json"), o) },
		func() error { return p.writeConfig(o) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("prepare the machine: %w", err)
		}
	}
	all, err := p.components(o)
	if err != nil {
		return err
	}
	// Images are imported while the control plane starts.
	imported := make(chan error, 1)
	imported <- nil
	for _, c := range all {
		if c.name == "kubelet" { // those that changed, where it runs already
			<-imported
			go func() { imported <- p.importImages(ctx, base, bin) }()
		}
		if _, yes := p.running(c.name); yes {
			continue
		}
		if c.name == "kube-controller-manager" { // all that follows wants what the API server is told here
			if err := p.install(ctx); err != nil {
				return err
			}
		}
		if err := p.startComponent(ctx, c); err != nil {
			return err
		}
	}
	progress("waiting for images")
	if err := <-imported; err != nil {
		return err
	}
	progress("waiting for the node")
	if err := wait(ctx, time.Minute, "node "+nodeName, func() error { return p.nodeReady(ctx) }); err != nil {
		return fmt.Errorf("%w; see %s", err, p.logFile("kubelet"))
	}
	if err := p.provision(ctx); err != nil {
		return err
	}
	progress("up after %s: export KUBECONFIG=%s", time.Since(start).Round(100*time.Millisecond), p.admin())
	return nil
}

// makeCache makes what takes long and is kept: Kubernetes and the images' parts.
func (p paths) makeCache(ctx context.Context) (base, bin string, err error) {
	if err := p.build(ctx); err != nil {
		return "", "", err
	}
	if bin, err = p.buildImagePrograms(ctx); err != nil {
		return "", "", err
	}
	log, err := os.Create(filepath.Join(p.cache, "images.log"))
	if err != nil {
		return "", "", err
	}
	defer func() { _ = log.Close() }()
	if base, err = images.Base(ctx, p.cache, log, func(s string) { progress("%s", s) }); err != nil {
		return "", "", fmt.Errorf("%w; see %s", err, log.Name())
	}
	return base, bin, nil
}

// check says what the machine lacks, all at once.
func check() error {
	if os.Geteuid() != 0 {
		return errors.New("the cluster's node mounts, routes and runs containers: run this as root")
	}
	var missing []string
	for program, pkg := range needs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs are missing; run: apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	return nil
}

func (p paths) startComponent(ctx context.Context, c component) error {
	progress("starting %s", c.name)
	if err := p.launch(c); err != nil {
		return err
	}
	if c.ready == nil {
		return nil
	}
	err := wait(ctx, time.Minute, c.name, func() error {
		if _, yes := p.running(c.name); !yes {
			return fmt.Errorf("it has ended: %w", errOver)
		}
		return c.ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w; see %s", err, p.logFile(c.name))
	}
	return nil
}

// install tells the API server of the cluster's types, roles and classes, and
// gives the sidecars their accounts' tokens.
func (p paths) install(ctx context.Context) error {
	progress("installing roles, snapshot types and storage classes")
	shipped := filepath.Join(p.cache, version, "manifests")
	if _, err := p.kubectl(ctx, "apply", "--server-side", "--force-conflicts", "-f", shipped); err != nil {
		return fmt.Errorf("install what the modules ship: %w", err)
	}
	if _, err := p.kubectl(ctx, "wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"); err != nil {
		return fmt.Errorf("install the snapshot types: %w", err)
	}
	var text strings.Builder
	err := fs.WalkDir(manifests, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := manifests.ReadFile(path)
		text.Write(b)
		text.WriteString("\n---\n")
		return err
	})
	if err != nil {
		return err
	}
	if _, err := p.kubectlInput(ctx, text.String(), "apply", "--server-side", "--force-conflicts", "-f", "-"); err != nil {
		return fmt.Errorf("install roles and classes: %w", err)
	}
	for account, namespace := range map[string]string{"snapshot-controller": "kube-system", "csi-snapshotter": "default", "csi-provisioner": "default"} {
		if _, err := os.Stat(p.kubeconfig(account)); err == nil {
			continue
		}
		token, err := p.kubectl(ctx, "create", "token", account, "--namespace", namespace, "--duration=8760h")
		if err != nil {
			return fmt.Errorf("get a token for %s: %w", account, err)
		}
		if err := p.writeTokenKubeconfig(p.kubeconfig(account), strings.TrimSpace(token)); err != nil {
			return err
		}
	}
	return nil
}

// importImages imports the images where containerd does not have them, or has
// others of these names.
func (p paths) importImages(ctx context.Context, base, bin string) error {
	sum, err := images.Sum(base, bin)
	if err != nil {
		return err
	}
	mark := p.in("containerd", "thaw-images") // goes with what containerd has
	if had, err := os.ReadFile(mark); err == nil && string(had) == sum {
		return nil
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(images.Write(w, base, bin)) }()
	cmd := exec.CommandContext(ctx, "ctr", "--address="+p.runtime(), "--namespace=k8s.io", "images", "import", "--digests=false", "-")
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import images: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.WriteFile(mark, []byte(sum), 0o644)
}

func (p paths) nodeReady(ctx context.Context) error {
	out, err := p.kubectl(ctx, "get", "node", nodeName, "--request-timeout=5s", "-o", `jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}`)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(out, "True") {
		return fmt.Errorf("it is not ready: %s", out)
	}
	return nil
}

// provision sees a claim bound, and takes it away again.
func (p paths) provision(ctx context.Context) error {
	progress("waiting for a claim to be provisioned")
	const claim = `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: thaw-cluster-check, namespace: default},
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}}`
	if _, err := p.kubectlInput(ctx, claim, "apply", "-f", "-"); err != nil {
		return fmt.Errorf("provision a claim: %w", err)
	}
	err := wait(ctx, time.Minute, "a claim to be bound", func() error {
		out, err := p.kubectl(ctx, "get", "-n", "default", "pvc", "thaw-cluster-check", "-o", "jsonpath={.status.phase}")
		if err == nil && out != "Bound" {
			err = fmt.Errorf("it is %s", out)
		}
		return err
	})
	_, deleted := p.kubectl(ctx, "delete", "-n", "default", "pvc", "thaw-cluster-check", "--wait=false")
	if err = errors.Join(err, deleted); err != nil {
		return fmt.Errorf("%w; see %s", err, p.logFile("csi-provisioner"))
	}
	return nil
}
