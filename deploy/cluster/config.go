package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// The cluster's place in the machine: an address of its own on lo, and ranges
// that nobody else's network is likely to have.
const (
	version   = "v1.37.2" // of Kubernetes: binaries/go.mod has it too
	nodeName  = "thaw"
	nodeIP    = "10.213.7.1"
	podRange  = "10.213.8.0/24"
	podRouter = "10.213.8.1" // host's end of every pod's network
	svcRange  = "10.213.9.0/24"
	svcAPI    = "10.213.9.1"
	apiPort   = "6443"
	etcdPort  = "23790"
	etcdPeer  = "23791"
	domain    = "cluster.local"
)

// paths are where the cluster lives, nothing of it in the repository.
type paths struct {
	state  string // of the running cluster; down removes it
	cgroup string // below which its pods are, in every hierarchy
	cache  string // what takes long to make: binaries, images
	source string // deploy/cluster of the repository; only for what has to be built
}

func findPaths() (paths, error) {
	p := paths{state: os.Getenv("THAW_CLUSTER_DIR"), cgroup: "thaw-cluster"}
	home, err := os.UserHomeDir()
	if err != nil {
		return p, fmt.Errorf("find the cluster's directories: %w; set HOME", err)
	}
	if p.state != "" {
		sum := sha256.Sum256([]byte(p.state))
		p.cgroup += "-" + hex.EncodeToString(sum[:4])
	} else {
		p.state = filepath.Join(or(os.Getenv("XDG_STATE_HOME"), filepath.Join(home, ".local", "state")), "thaw", "cluster")
	}
	if p.state, err = filepath.Abs(p.state); err != nil {
		return p, err
	}
	// A socket's path has 107 bytes, and the longest below takes 56.
	if len(p.state) > 50 {
		return p, fmt.Errorf("state directory %s: its path is over 50 bytes, too long for the sockets in it; set THAW_CLUSTER_DIR to a shorter one", p.state)
	}
	p.cache = filepath.Join(or(os.Getenv("XDG_CACHE_HOME"), filepath.Join(home, ".cache")), "thaw", "cluster")
	exe, err := os.Executable()
	if err != nil {
		return p, err
	}
	for _, d := range []string{filepath.Join(filepath.Dir(exe), "..", "deploy", "cluster"), "deploy/cluster", "."} {
		if _, err := os.Stat(filepath.Join(d, "binaries", "go.mod")); err == nil {
			p.source, err = filepath.Abs(d)
			return p, err
		}
	}
	return p, nil
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (p paths) in(elem ...string) string     { return filepath.Join(append([]string{p.state}, elem...)...) }
func (p paths) binary(name string) string    { return filepath.Join(p.cache, version, name) }
func (p paths) kubeconfig(who string) string { return p.in("config", who+".kubeconfig") }
func (p paths) admin() string                { return p.in("kubeconfig") }
func (p paths) runtime() string              { return p.in("containerd.sock") }

// options are what the last `up` was told: a component that is started later
// has them too.
type options struct {
	LogMaxSize string // of a container's log, before it is rotated
	LogFiles   int
	PoolSize   int64
}

func (p paths) loadOptions() (o options, err error) {
	b, err := os.ReadFile(p.in("options.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return o, fmt.Errorf("there is no cluster in %s; run: make cluster", p.state)
	}
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return o, fmt.Errorf("read %s: %w", p.in("options.json"), err)
	}
	return o, nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, b, 0o600)
}

// writeFile makes the directory too, and never leaves half a file.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
