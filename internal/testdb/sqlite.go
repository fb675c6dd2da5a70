package testdb

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	_ "modernc.org/sqlite" // driver "sqlite"
)

// SQLite is a database file. A process must not open it itself while it also
// copies the file: closing any descriptor of it would drop the process's
// locks. So all of its work is done in children (see ChildMain).
type SQLite struct {
	Path string
	// Load is set by StartLoad.
	*Load
	t     TB
	child *exec.Cmd
}

const childCommand = "thaw-testdb-sqlite"

// SQLiteJournal is the journal mode of new databases.
var SQLiteJournal = "wal"

// NewSQLite makes a database file with the load's tables in it.
func NewSQLite(t TB, journal ...string) *SQLite {
	t.Helper()
	mode := first(journal)
	if mode == "" {
		mode = SQLiteJournal
	}
	return NewSQLiteAt(t, filepath.Join(scratch(t), "shop.db"), mode)
}

// NewSQLiteAt makes it at that path.
func NewSQLiteAt(t TB, path, journal string) *SQLite {
	t.Helper()
	s := &SQLite{Path: path, t: t}
	if out, err := childProcess("prepare", path, journal).CombinedOutput(); err != nil {
		t.Fatalf("make SQLite database %s: %v: %s", path, err, out)
	}
	return s
}

// StartLoad starts a writer in a process of its own; it stops with the test.
func (s *SQLite) StartLoad() {
	s.t.Helper()
	s.Load = &Load{}
	s.child = childProcess("load", s.Path)
	stdin, err := s.child.StdinPipe()
	if err != nil {
		s.t.Fatalf("start SQLite load: %v", err)
	}
	stdout, err := s.child.StdoutPipe()
	if err != nil {
		s.t.Fatalf("start SQLite load: %v", err)
	}
	s.child.Stderr = os.Stderr
	if err := s.child.Start(); err != nil {
		s.t.Fatalf("start SQLite load: %v", err)
	}
	s.done.Go(func() {
		for in := bufio.NewScanner(stdout); in.Scan(); {
			if msg, failed := strings.CutPrefix(in.Text(), "failed "); failed {
				err := fmt.Errorf("%s", msg)
				s.failed.Add(1)
				s.lastErr.Store(&err)
				continue
			}
			at, err := strconv.ParseInt(in.Text(), 10, 64)
			if err != nil {
				continue
			}
			s.commits.Add(1)
			s.last.Store(at)
		}
		_ = s.child.Wait()
	})
	s.stop = func() { _ = stdin.Close() }
	s.t.Cleanup(s.Stop)
}

// Check says whether a copy's data is consistent (integrity_check included).
func (s *SQLite) Check(path string) (transactions int64, err error) {
	out, err := childProcess("check", path).Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			return 0, fmt.Errorf("check %s: %s", path, e.Stderr)
		}
		return 0, fmt.Errorf("check %s: %w", path, err)
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

// Exec runs statements on it in a child; it waits for locks for a second.
func (s *SQLite) Exec(statements ...string) error {
	if out, err := childProcess(append([]string{"exec", s.Path}, statements...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(string(out)), err)
	}
	return nil
}

func childProcess(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	if err != nil {
		exe = "/proc/self/exe"
	}
	cmd := exec.Command(exe, append([]string{childCommand}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// ChildMain does the work of a child, and does not return there. Call it first
// thing in TestMain, or in main.
func ChildMain() {
	if len(os.Args) < 4 || os.Args[1] != childCommand {
		return
	}
	if err := child(os.Args[2], os.Args[3], os.Args[4:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func child(what, path string, args []string) error {
	timeout := 10000
	if what == "exec" {
		timeout = 1000
	}
	db, err := sql.Open("sqlite", fmt.Sprintf("file:%s?_txlock=immediate&_pragma=busy_timeout(%d)", (&url.URL{Path: path}).EscapedPath(), timeout))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	ctx := context.Background()
	switch what {
	case "prepare":
		if _, err := db.Exec("PRAGMA journal_mode = " + args[0]); err != nil {
			return err
		}
		return PrepareLoad(ctx, db)
	case "exec":
		for _, s := range args {
			if _, err := db.Exec(s); err != nil {
				return err
			}
		}
		return nil
	case "check":
		var ok string
		if err := db.QueryRow("PRAGMA integrity_check").Scan(&ok); err != nil {
			return fmt.Errorf("integrity_check: %w", err)
		}
		if ok != "ok" {
			return fmt.Errorf("integrity_check: %s", ok)
		}
		n, err := CheckLoad(ctx, db)
		fmt.Println(n)
		return err
	case "load":
		go func() { _, _ = io.Copy(io.Discard, os.Stdin); os.Exit(0) }()
		seq := int64(-1)
		for i := 0; ; i++ {
			if err := transfer(ctx, db, 0, &seq, i); err != nil {
				fmt.Println("failed", err)
				seq = -1
				continue
			}
			fmt.Println(time.Now().UnixNano())
			time.Sleep(time.Millisecond) // else readers of other processes starve
		}
	}
	return fmt.Errorf("unknown work %q", what)
}
