package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

const (
	snapshotter = "github.com/kubernetes-csi/external-snapshotter/v8"
	snapClient  = "github.com/kubernetes-csi/external-snapshotter/client/v8"
	provisioner = "github.com/kubernetes-csi/external-provisioner/v6"
)

// shipped are the manifests that the modules bring: they are copied beside the
// binaries, so that a built cache needs no module.
var shipped = []struct{ module, file string }{
	{snapClient, "config/crd/*_*.yaml"},
	{snapshotter, "deploy/kubernetes/snapshot-controller/rbac-snapshot-controller.yaml"},
	{snapshotter, "deploy/kubernetes/csi-snapshotter/rbac-csi-snapshotter.yaml"},
	{provisioner, "deploy/kubernetes/rbac.yaml"},
}

// build makes the binaries, unless the cache has those of the same modules.
func (p paths) build(ctx context.Context) error {
	dir := filepath.Join(p.cache, version)
	stamp := filepath.Join(dir, "built")
	if p.source == "" {
		if _, err := os.Stat(stamp); err != nil {
			return fmt.Errorf("build the cluster's programs: deploy/cluster/binaries not found; run this from the repository's root")
		}
		return nil
	}
	module := filepath.Join(p.source, "binaries")
	want, err := sumOf(filepath.Join(module, "go.mod"), filepath.Join(module, "go.sum"))
	if err != nil {
		return fmt.Errorf("build the cluster's programs: %w", err)
	}
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		return nil
	}
	progress("building Kubernetes %s (the first time; about fifteen minutes on two cores)", version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("build the cluster's programs: %w", err)
	}
	const stamped = "-X k8s.io/component-base/version."
	v := strings.Split(strings.TrimPrefix(version, "v"), ".")
	flags := fmt.Sprintf("-s -w %[1]sgitVersion=%[2]s %[1]sgitMajor=%[3]s %[1]sgitMinor=%[4]s", stamped, version, v[0], v[1])
	if err := goCommand(ctx, module, "build", "-trimpath", "-ldflags", flags, "-o", dir+"/", "tool"); err != nil {
		return fmt.Errorf("build the cluster's programs: %w", err)
	}
	for _, s := range shipped {
		if err := copyShipped(ctx, module, s.module, s.file, filepath.Join(dir, "manifests")); err != nil {
			return fmt.Errorf("build the cluster's programs: manifests of %s: %w", s.module, err)
		}
	}
	return writeFile(stamp, []byte(want), 0o644)
}

func goCommand(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, os.Stderr, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s (in %s): %w", args[0], dir, err)
	}
	return nil
}

func copyShipped(ctx context.Context, module, of, pattern, to string) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", of)
	cmd.Dir, cmd.Stderr = module, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("go list -m: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), pattern))
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: %w", pattern, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		name := filepath.Base(f)
		if name == "rbac.yaml" {
			name = "rbac-external-provisioner.yaml"
		}
		if err := writeFile(filepath.Join(to, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func sumOf(files ...string) (string, error) {
	h := sha256.New()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// buildImagePrograms builds what the images hold of ours: seconds.
func (p paths) buildImagePrograms(ctx context.Context) (dir string, err error) {
	dir = filepath.Join(p.cache, "images", "bin")
	if p.source == "" {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := goCommand(ctx, p.source, "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "./images/pause"); err != nil {
		return "", fmt.Errorf("build the images' programs: %w", err)
	}
	// Of the main module, this one's neighbour.
	if err := goCommand(ctx, filepath.Join(p.source, "..", ".."), "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "kando"), "./deploy/kando"); err != nil {
		return "", fmt.Errorf("build the images' programs: %w", err)
	}
	return dir, nil
}
