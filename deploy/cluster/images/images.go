// Package images makes the container images of the test cluster on the machine
// itself: there is no registry. One root file system, made once by debootstrap,
// serves them all; a small layer on it has the entry points; and the images
// differ by their configuration alone. Start reading at Write.
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Pause is the image that holds a pod's namespaces.
const Pause = "thaw.dev/test/pause:1"

//go:embed rootfs.sh
var recipe string

//go:embed postgres.sh
var postgres string

//go:embed mariadb.sh
var mariadb string

//go:embed redis.sh
var redis string

//go:embed mysqldump.sh
var mysqldump string

//go:embed redis-dump.sh
var redisDump string

const release = "bookworm"

var packages = []string{
	"postgresql", "postgresql-client", "mariadb-server", "mariadb-client", "mariadb-backup", "redis-server", "redis-tools",
	"sqlite3", "procps", "iproute2", "netcat-openbsd", "curl", "jq", "zstd", "bzip2",
}

// image is a name for a configuration over the shared layers.
type image struct {
	names      []string
	bare       bool // pause alone, no root file system
	entrypoint []string
	cmd        []string
	env        []string
	ports      []string
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// all lists them. The names of others are those that public blueprints ask for;
// the images have what these run, and our kando.
var all = []image{
	{names: []string{Pause}, bare: true, entrypoint: []string{"/pause"}},
	{
		names:      []string{"thaw.dev/test/postgres:15"},
		entrypoint: []string{"/usr/local/bin/postgres-entrypoint"}, ports: []string{"5432/tcp"},
		env: []string{"PGDATA=/var/lib/postgresql/data/pgdata"},
	},
	{
		names:      []string{"thaw.dev/test/mariadb:10.11"},
		entrypoint: []string{"/usr/local/bin/mariadb-entrypoint"}, ports: []string{"3306/tcp"},
	},
	{
		names:      []string{"thaw.dev/test/redis:7"},
		entrypoint: []string{"/usr/local/bin/redis-entrypoint"}, ports: []string{"6379/tcp"},
	},
	{
		names: []string{
			"thaw.dev/test/tools:1", "thaw.dev/test/tools:latest",
			"ghcr.io/kanisterio/kanister-tools:0.116.0", "ghcr.io/kanisterio/kanister-tools:0.110.0",
			"ghcr.io/kanisterio/postgres-kanister-tools:0.116.0", "ghcr.io/kanisterio/postgres-kanister-tools:0.34.0",
			"ghcr.io/kanisterio/mysql-sidecar:0.116.0", "ghcr.io/kanisterio/mysql-sidecar:0.43.0",
			"docker.io/bitnamilegacy/postgresql:17", "thaw.dev/test/redis-tools:1",
		},
		cmd: []string{"/bin/bash"},
	},
}

// Base is the shared root file system as a tar file in the cache, made if it is
// not there: that takes two to four minutes. source is this package's directory.
func Base(ctx context.Context, cache string, log io.Writer, progress func(string)) (file string, err error) {
	sum := sha256.Sum256([]byte(recipe + release + strings.Join(packages, " ")))
	file = filepath.Join(cache, "images", "base-"+hex.EncodeToString(sum[:6])+".tar")
	if _, err := os.Stat(file + ".sha256"); err == nil {
		return file, nil
	}
	progress("making the images' root file system (the first time; three to five minutes)")
	mirror, err := mirror(ctx)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return "", err
	}
	stale, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "rootfs-*")) // of one that was killed
	for _, d := range stale {
		if err := os.RemoveAll(d); err != nil {
			return "", err
		}
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), "rootfs-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	script := filepath.Join(dir, "rootfs.sh")
	if err := os.WriteFile(script, []byte(recipe), 0o700); err != nil {
		return "", err
	}
	root := filepath.Join(dir, "root")
	for _, c := range [][]string{
		append([]string{"sh", script, root, mirror, release}, packages...),
		{"tar", "--numeric-owner", "--sort=name", "-C", root, "-cf", file, "."},
	} {
		cmd := exec.CommandContext(ctx, c[0], c[1:]...)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("make root file system: %s: %w", c[0], err)
		}
	}
	digest, _, err := digestOf(file)
	if err != nil {
		return "", err
	}
	return file, os.WriteFile(file+".sha256", []byte(digest), 0o644)
}

// mirror is the one that this machine's packages come from.
func mirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("find a Debian mirror: apt-get indextargets: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == release && f[2] == "main" {
			return f[0], nil
		}
	}
	return "", fmt.Errorf("find a Debian mirror: apt has none of %s main; add one to its sources and run apt-get update", release)
}

func digestOf(file string) (digest string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), size, err
}

// blob of an OCI layout: bytes, or a file.
type blob struct {
	digest string
	size   int64
	bytes  []byte
	file   string
}

func newBlob(b []byte) blob {
	sum := sha256.Sum256(b)
	return blob{digest: hex.EncodeToString(sum[:]), size: int64(len(b)), bytes: b}
}

func jsonBlob(v any) (blob, error) {
	b, err := json.Marshal(v)
	return newBlob(b), err
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (b blob) describe(kind string) descriptor {
	return descriptor{MediaType: "application/vnd.oci.image." + kind, Digest: "sha256:" + b.digest, Size: b.size}
}

// Sum changes whenever any of the images does. Parameters as of Write.
func Sum(base, bin string) (string, error) {
	_, index, err := assemble(base, bin)
	return newBlob(index).digest, err
}

// Write writes all images as one OCI archive, for `ctr images import`. bin has
// the programs kando and pause.
func Write(w io.Writer, base, bin string) error {
	blobs, index, err := assemble(base, bin)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	if err := add(t, "oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	if err := add(t, "index.json", index, 0o644); err != nil {
		return err
	}
	for _, b := range blobs {
		if err := b.writeTo(t); err != nil {
			return fmt.Errorf("write images: %w", err)
		}
	}
	return t.Close()
}

// assemble makes all blobs, and the index that names them.
func assemble(base, bin string) (blobs []blob, index []byte, err error) {
	digest, err := os.ReadFile(base + ".sha256")
	if err != nil {
		return nil, nil, fmt.Errorf("make images: %w", err)
	}
	st, err := os.Stat(base)
	if err != nil {
		return nil, nil, fmt.Errorf("make images: %w", err)
	}
	shared := blob{digest: string(digest), size: st.Size(), file: base}
	pause, err := layer(map[string]string{"pause": filepath.Join(bin, "pause")}, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make images: %w", err)
	}
	scripts, err := layer(map[string]string{"usr/local/bin/kando": filepath.Join(bin, "kando")}, map[string]string{
		"usr/local/bin/postgres-entrypoint": postgres, "usr/local/bin/mariadb-entrypoint": mariadb, "usr/local/bin/redis-entrypoint": redis,
		"usr/local/bin/mysqldump": mysqldump, "usr/local/bin/redis-dump": redisDump,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make images: %w", err)
	}
	blobs = []blob{shared, pause, scripts}
	var manifests []descriptor
	for _, i := range all {
		layers := []blob{shared, scripts}
		if i.bare {
			layers = []blob{pause}
		}
		config, manifest, err := i.encode(layers)
		if err != nil {
			return nil, nil, fmt.Errorf("make image %s: %w", i.names[0], err)
		}
		blobs = append(blobs, config, manifest)
		for _, name := range i.names {
			d := manifest.describe("manifest.v1+json")
			d.Annotations = map[string]string{"io.containerd.image.name": name}
			manifests = append(manifests, d)
		}
	}
	index, err = json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	return blobs, index, err
}

func (i image) encode(layers []blob) (config, manifest blob, err error) {
	var ids []string
	var ds []descriptor
	for _, l := range layers {
		ids, ds = append(ids, "sha256:"+l.digest), append(ds, l.describe("layer.v1.tar"))
	}
	ports := map[string]struct{}{}
	for _, p := range i.ports {
		ports[p] = struct{}{}
	}
	config, err = jsonBlob(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{
			"Env": append([]string{searchPath, "LANG=C.UTF-8"}, i.env...), "Entrypoint": i.entrypoint, "Cmd": i.cmd, "ExposedPorts": ports,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
	if err != nil {
		return config, manifest, err
	}
	manifest, err = jsonBlob(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config.describe("config.v1+json"), "layers": ds,
	})
	return config, manifest, err
}

func (b blob) writeTo(t *tar.Writer) error {
	name := "blobs/sha256/" + b.digest
	if b.file == "" {
		return add(t, name, b.bytes, 0o644)
	}
	f, err := os.Open(b.file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: b.size}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// layer makes a tar of programs, from files, and of scripts.
func layer(files, scripts map[string]string) (blob, error) {
	content := map[string][]byte{}
	for name, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return blob{}, err
		}
		content[name] = b
	}
	for name, text := range scripts {
		content[name] = []byte(text)
	}
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(content)) { // the same layer each time
		if err := add(t, name, content[name], 0o755); err != nil {
			return blob{}, err
		}
	}
	if err := t.Close(); err != nil {
		return blob{}, err
	}
	return newBlob(out.Bytes()), nil
}

func add(t *tar.Writer, name string, b []byte, mode int64) error {
	if err := t.WriteHeader(&tar.Header{Name: path.Clean(name), Mode: mode, Size: int64(len(b)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := t.Write(b)
	return err
}
