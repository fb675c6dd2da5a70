// Command thaw-server is Temporal in one process: all services on a SQLite
// file, and the Web UI. It knows nothing of Thaw but the names of its search
// attributes. Start with run; server.go holds what is configured and why.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	o, err := parse(os.Args[1:])
	if err == nil {
		err = run(o)
	}
	switch {
	case err == nil || err == flag.ErrHelp:
	default:
		fmt.Fprintln(os.Stderr, "thaw-server:", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet("thaw-server", flag.ContinueOnError)
	f.StringVar(&o.Data, "data", "", "directory of the database; made where absent (required)")
	f.StringVar(&o.IP, "ip", "127.0.0.1", "address to listen on; there is no authentication, so leave it on loopback")
	f.IntVar(&o.Port, "port", 7233, "port of the frontend (gRPC); 0 picks a free one")
	f.IntVar(&o.UIPort, "ui-port", 8233, "port of the Web UI; 0 is off, -1 picks a free one")
	f.StringVar(&o.Namespace, "namespace", "default", "namespace, made where absent")
	f.DurationVar(&o.Retention, "retention", 30*24*time.Hour, "how long histories of closed runs are kept")
	f.StringVar(&o.LogLevel, "log-level", "error", "debug, info, warn, error")
	f.StringVar(&o.ReadyFile, "ready-file", "", "written once it serves: JSON {address, ui, pid}")
	f.BoolVar(&o.DieWithParent, "die-with-parent", false, "stop when the process that started it is gone")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if o.Data == "" {
		return o, fmt.Errorf("--data is required: the directory that keeps histories")
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.Retention < time.Hour {
		return o, fmt.Errorf("--retention %s: at least 1h, else histories go before anybody reads them", o.Retention)
	}
	return o, nil
}

func run(o options) error {
	// Before anything that takes time: a parent that ends meanwhile is noticed
	// by its changed id.
	parent := os.Getppid()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if o.DieWithParent {
		ctx = untilOrphaned(ctx, parent)
	}

	release, err := lockData(o.Data)
	if err != nil {
		return err
	}
	defer release()

	s, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.ready(ctx); err != nil {
		return err
	}
	slog.Info("temporal serves", "address", s.address, "ui", s.ui)
	if o.ReadyFile != "" {
		if err := writeReady(o.ReadyFile, s); err != nil {
			return err
		}
		defer os.Remove(o.ReadyFile)
	}
	<-ctx.Done()
	return nil
}

// untilOrphaned ends when the parent is gone. PR_SET_PDEATHSIG is no help: it
// fires when the parent's *thread* ends, and Go ends threads as it likes.
func untilOrphaned(ctx context.Context, parent int) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		t := time.NewTicker(250 * time.Millisecond)
		defer t.Stop()
		for os.Getppid() == parent {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
	return ctx
}

// lockData keeps a second server off the same database: two would each believe
// that they own its one shard.
func lockData(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data directory %s: another server uses it (%w); stop that one, or give another --data", dir, err)
	}
	return func() { f.Close() }, nil
}

// readiness is what --ready-file says.
type readiness struct {
	Address string `json:"address"`
	UI      string `json:"ui,omitempty"`
	PID     int    `json:"pid"`
}

func writeReady(path string, s *server) error {
	b, err := json.Marshal(readiness{Address: s.address, UI: s.ui, PID: os.Getpid()})
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}
