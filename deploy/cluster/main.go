// Command thaw-cluster runs a real Kubernetes cluster of one node on this
// machine, for end-to-end tests: no registry, no container, no virtual machine
// is needed, only Go and Debian's packages. It builds Kubernetes from the module
// proxy, makes the images itself, and has a CSI driver that tests can tell what
// to do wrong. docs/cluster.md is its page. Start reading at paths.up.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const usage = `usage: thaw-cluster COMMAND

  up                     bring the cluster up (--log-max-size 10Mi, --log-files 5, --pool-gib 64)
  build                  only what takes long and is kept: Kubernetes and the images
  down                   take all of it away
  status                 its components; exit code 1 if it is not healthy
  kubeconfig             print the path of the administrator's
  kubectl ARGS...        run kubectl on it

  stop COMPONENT         SIGTERM, and wait       kill COMPONENT    SIGKILL, and wait
  start COMPONENT        start, and wait         restart COMPONENT
  pause COMPONENT        SIGSTOP                 cont COMPONENT    SIGCONT
  logs COMPONENT         print the path of its log

  disk full | free       take all that is left of the volumes' disk, or give it back

  fault FLAGS            tell the CSI driver what to do wrong; see fault --help
  fault list             the faults that are set
  fault clear [ID...]    no more faults, or not these
  snapshots              what the CSI driver's storage holds, known to the cluster or not
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:])
	stop()
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "thaw-cluster:", err)
		os.Exit(1)
	}
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, "cluster: "+format+"\n", args...) }

func command(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return flag.ErrHelp
	}
	name, args := args[0], args[1:]
	switch name { // components that this program is itself: they are told all
	case "csi-driver":
		return driverMain(ctx, args)
	case "dns":
		return dnsMain(ctx, args)
	}
	p, err := findPaths()
	if err != nil {
		return err
	}
	switch name {
	case "up":
		var o options
		f := flag.NewFlagSet("up", flag.ContinueOnError)
		f.StringVar(&o.LogMaxSize, "log-max-size", or(os.Getenv("THAW_CLUSTER_LOG_MAX_SIZE"), "10Mi"), "size of a container's log at which it is rotated")
		f.IntVar(&o.LogFiles, "log-files", 5, "how many files of a container's log are kept")
		gib := f.Int64("pool-gib", 64, "size of the volumes' pool, which is sparse")
		if err := f.Parse(args); err != nil {
			return err
		}
		o.PoolSize = *gib << 30
		return p.up(ctx, o)
	case "build":
		if err := check(); err != nil {
			return err
		}
		_, _, err := p.makeCache(ctx)
		return err
	case "down":
		return p.down(ctx)
	case "status":
		return p.status(ctx)
	case "kubeconfig":
		if _, err := p.loadOptions(); err != nil {
			return err
		}
		fmt.Println(p.admin())
		return nil
	case "kubectl":
		if _, err := p.loadOptions(); err != nil {
			return err
		}
		env := append(os.Environ(), "KUBECONFIG="+p.admin())
		return syscall.Exec(p.binary("kubectl"), append([]string{"kubectl"}, args...), env)
	case "stop", "kill", "start", "restart", "pause", "cont", "logs":
		if len(args) != 1 {
			return fmt.Errorf("%s: want one component; `thaw-cluster status` lists them", name)
		}
		return p.control(ctx, name, args[0])
	case "disk":
		if len(args) != 1 || args[0] != "full" && args[0] != "free" {
			return errors.New("disk: want full or free")
		}
		return p.disk(args[0] == "full")
	case "fault":
		return p.fault(args)
	case "snapshots":
		return p.snapshots()
	default:
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("%q: no such command", name)
	}
}

// disk takes all that is free of the volumes' pool, or gives it back: no volume
// and no snapshot can grow. It takes nothing of this machine's disk.
func (p paths) disk(full bool) error {
	if _, err := p.loadOptions(); err != nil {
		return err
	}
	filler := filepath.Join(p.pool(), "filler")
	if !full {
		return os.RemoveAll(filler)
	}
	if err := os.MkdirAll(filler, 0o755); err != nil {
		return err
	}
	for size := int64(1 << 34); size >= 1<<16; {
		err := allocate(filler, size)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 4
		case err != nil:
			return fmt.Errorf("fill the pool: %w", err)
		}
	}
	return nil
}

// allocate reserves space for a file, which is not written.
func allocate(dir string, size int64) (err error) {
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return syscall.Fallocate(int(f.Fd()), 0, 0, size)
}

// control does one thing to one component.
func (p paths) control(ctx context.Context, what, name string) error {
	c, err := p.component(name)
	if err != nil {
		return err
	}
	switch what {
	case "stop":
		return p.halt(ctx, name, 20*time.Second)
	case "kill":
		return p.halt(ctx, name, 0)
	case "restart":
		if err := p.halt(ctx, name, 20*time.Second); err != nil {
			return err
		}
		return p.startAgain(ctx, c)
	case "start":
		return p.startAgain(ctx, c)
	case "pause":
		return p.signal(name, syscall.SIGSTOP)
	case "cont":
		return p.signal(name, syscall.SIGCONT)
	default:
		fmt.Println(p.logFile(name))
		return nil
	}
}

// startAgain starts a component, and after the driver its sidecars: they end
// when they lose it, and in a pod the kubelet would start them again.
func (p paths) startAgain(ctx context.Context, c component) error {
	_, had := p.running(c.name)
	if err := p.startComponent(ctx, c); err != nil || had || c.name != csiDriver {
		return err
	}
	for _, name := range []string{"csi-provisioner", "csi-snapshotter"} {
		sidecar, err := p.component(name)
		if err != nil {
			return err
		}
		if err := p.halt(ctx, name, 5*time.Second); err != nil {
			return err
		}
		if err := p.startComponent(ctx, sidecar); err != nil {
			return err
		}
	}
	return nil
}

func (p paths) status(ctx context.Context) error {
	o, err := p.loadOptions()
	if err != nil {
		return err
	}
	all, err := p.components(o)
	if err != nil {
		return err
	}
	healthy := true
	for _, c := range all {
		x, yes := p.running(c.name)
		state := fmt.Sprintf("running  pid %d", x.Pid)
		switch {
		case !yes:
			state, healthy = "stopped", false
		case c.ready != nil && c.ready(ctx) != nil:
			state, healthy = fmt.Sprintf("not ready  pid %d", x.Pid), false
		}
		fmt.Printf("%-24s %s\n", c.name, state)
	}
	if err := p.nodeReady(ctx); err != nil {
		return fmt.Errorf("node %s: %w", nodeName, err)
	}
	fmt.Printf("%-24s ready\n", "node "+nodeName)
	faults, err := p.faults().Read()
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		fmt.Printf("%-24s %d\n", "faults set", len(faults))
	}
	if !healthy {
		return errors.New("not all components run; start one: thaw-cluster start COMPONENT; all: make cluster")
	}
	return nil
}

// lock holds off another up or down.
func (p paths) lock() (unlock func(), err error) {
	file := p.state + ".lock"
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another `up` or `down` of the cluster in %s is at work; wait for it", p.state), f.Close())
	}
	return func() { _ = f.Close() }, nil
}
