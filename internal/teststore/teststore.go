// Package teststore starts private object stores on loopback for tests: real
// programs, each over a line that the test can cut, and which it can kill and
// start again. It knows templates.Profile and nothing else of Thaw. Start with
// S3, GCS, Azure, Directory; or with StartS3 and its like for what can break.
package teststore

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"thaw/blueprints/templates"
)

// RequireStores is the environment variable that turns a store's missing
// program from a skipped test into a failed one.
const RequireStores = "THAW_REQUIRE_STORES"

func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv(RequireStores) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Server is a store that runs.
type Server struct {
	// Profile leads to its bucket, over Line.
	Profile templates.Profile
	// Line is the network to it.
	Line *Line
	// Dir is where it keeps what it holds.
	Dir string
	// Direct is its own address, past the line.
	Direct string

	t       testing.TB
	command func() *exec.Cmd
	kept    func(name string) bool // nil: what it says is stored is
	mu      sync.Mutex
	cmd     *exec.Cmd
	gone    chan struct{}
	log     *tail
}

// start runs a store and waits until it takes connections.
func (s *Server) start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Env = append(cmd.Env, clean()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	gone := make(chan struct{})
	go func() {
		runtime.LockOSThread() // the thread's end would be the parent's death
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		_ = cmd.Wait()
		close(gone)
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("teststore: start %s: %v", cmd.Path, err)
	}
	s.cmd, s.gone = cmd, gone
	for end := time.Now().Add(30 * time.Second); ; {
		c, err := net.DialTimeout("tcp", s.Direct, time.Second)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-gone:
			s.t.Fatalf("teststore: %s ended: %s", filepath.Base(cmd.Path), s.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(end) {
			s.t.Fatalf("teststore: %s takes no connections: %s", filepath.Base(cmd.Path), s.log)
		}
	}
}

// Start starts it again, at the same address and with what it had.
func (s *Server) Start() {
	s.t.Helper()
	s.start()
}

// Stop ends it as an operator does.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

// Kill ends it with kill -9.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Settle waits until an object would outlive a Kill, in a store that says
// sooner that it is stored than it is.
func (s *Server) Settle(name string) {
	s.t.Helper()
	if s.kept == nil {
		return
	}
	for end := time.Now().Add(time.Minute); !s.kept(name); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("teststore: %s is not on the store's disk after a minute", name)
		}
	}
}

func (s *Server) end(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(sig)
	select {
	case <-s.gone:
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.gone
	}
	s.cmd = nil
}

// tail keeps the end of what a store prints.
type tail struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(b)
	if over := l.b.Len() - 16<<10; over > 0 {
		l.b.Next(over)
	}
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// clean is the environment without what would change a store or a client.
func clean() []string {
	var env []string
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); {
		case strings.HasPrefix(name, "AWS_"), strings.HasPrefix(name, "AZURE_"), strings.HasPrefix(name, "GOOGLE_"),
			strings.HasPrefix(name, "VGW_"), strings.HasPrefix(name, "ROOT_"), strings.HasPrefix(strings.ToLower(name), "http_proxy"):
		default:
			env = append(env, kv)
		}
	}
	return env
}

// built is a path below the repository's bin; empty where it is not there.
func built(name string) string {
	if _, file, _, ok := runtime.Caller(0); ok {
		p := filepath.Join(filepath.Dir(file), "..", "..", "bin", name)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// program finds a store's program: in the repository's bin, then on PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if p := built(name); p != "" {
		return p
	}
	p, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s not found: run `make bin/%[1]s`", name)
	}
	return p
}

// freePort asks the system for a port; another may take it, which is rare.
func freePort(t testing.TB, host string) int {
	t.Helper()
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newServer(t testing.TB, host string) *Server {
	t.Helper()
	if host == "" {
		host = "127.0.0.1"
	}
	direct := fmt.Sprintf("%s:%d", host, freePort(t, host))
	return &Server{t: t, Direct: direct, Line: newLine(t, host, direct), log: &tail{}}
}

// run starts the store, and ends it with the test.
func (s *Server) run(command func() *exec.Cmd) {
	s.t.Helper()
	s.command = command
	s.t.Cleanup(s.Kill)
	s.start()
}

func command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), name, args...)
}

// Directory is the profile of a directory of the test's own.
func Directory(t testing.TB) templates.Profile {
	t.Helper()
	return templates.Profile{Location: templates.Location{Type: "directory", Bucket: t.TempDir()}}
}

// Small is a directory with so many bytes of space, where this user may mount
// one.
func Small(t testing.TB, size int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0755", size)); err != nil {
		t.Skipf("a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("teststore: %v", err)
		}
	})
	return dir
}
