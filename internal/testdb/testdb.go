// Package testdb starts private databases on loopback, under write load, for
// tests and for the demo: PostgreSQL, MariaDB and SQLite, with their data
// where SnapshotPath can copy it. It knows nothing of Thaw. Start with
// StartPostgres, StartMariaDB, NewSQLite; programs that use SQLite's load call
// ChildMain first thing in main.
package testdb

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"sort"
	"strconv"
	"syscall"
	"time"
)

// TB is as much of *testing.T as this package uses; a demo program has its
// own (see Stage).
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(f func())
}

// RequireDatabases is the environment variable that turns a missing database
// server from a skipped test into a failed one.
const RequireDatabases = "THAW_REQUIRE_DATABASES"

// missing skips, or fails where databases are required.
func missing(t TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(RequireDatabases) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Binary finds a server program on PATH or in the places of distributions.
func Binary(name string) (string, bool) {
	if p, err := exec.LookPath(name); err == nil {
		return p, true
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/", "/usr/pgsql-*/bin/", "/usr/sbin/", "/usr/local/sbin/", "/sbin/"} {
		found, _ := filepath.Glob(pattern + name)
		sort.Strings(found)
		if len(found) > 0 {
			return found[len(found)-1], true
		}
	}
	return "", false
}

// account is who a database server runs as: it refuses to run as root.
type account struct {
	name     string
	uid, gid int
}

func accountFor(t TB, name string) account {
	t.Helper()
	if os.Geteuid() != 0 {
		return account{uid: os.Getuid(), gid: os.Getgid(), name: os.Getenv("USER")}
	}
	u, err := user.Lookup(name)
	if err != nil {
		missing(t, "no user %q to run the database server as: %v", name, err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return account{name: name, uid: uid, gid: gid}
}

func (a account) command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = "/"
	// A group of its own: Ctrl-C at the demo stops the demo, which stops it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return cmd
}

// directory makes a directory that belongs to the account, in parent or where
// temporary files go.
func (a account) directory(t TB, parent, name string) string {
	t.Helper()
	if parent == "" {
		parent = scratch(t)
	}
	dir := filepath.Join(parent, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatalf("make %s: %v", dir, err)
	}
	if err := os.Chown(dir, a.uid, a.gid); err != nil {
		t.Fatalf("make %s: %v", dir, err)
	}
	return dir
}

// scratch is a directory that goes with the test. Not T.TempDir: its parent is
// closed to other users.
func scratch(t TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "thaw-testdb-")
	if err != nil {
		t.Fatalf("make scratch directory: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatalf("make scratch directory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func freePort(t TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is a database server.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	log    string
}

func spawn(t TB, cmd *exec.Cmd, log string) *process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{}), log: log}
	go func() { _ = cmd.Wait(); close(p.exited) }()
	return p
}

func (p *process) stop(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.exited:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// await calls ready until it answers, the process ends, or 60 s are over.
func (p *process) await(ready func(context.Context) error) error {
	deadline := time.Now().Add(60 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		err := ready(ctx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, tail(p.log))
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w; %s", p.cmd.Path, err, tail(p.log))
		}
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1500):])
}

func run(t TB, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd.String(), err, out)
	}
}
