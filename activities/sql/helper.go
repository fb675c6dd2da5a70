package sql

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"modernc.org/sqlite"
)

// The helper process is where SQLite database files are opened. The worker
// never opens one itself: SQLite's locks are POSIX locks, and closing any
// descriptor of the file anywhere in a process (SnapshotPath copies the same
// file) drops all that the process holds on it, silently.
//
// It ends when its standard input does, so with the worker; and at the end of
// its own clock, so while the worker is stopped. With it go its locks.

// helperCommand is the first argument of a helper; the second is the token of
// its freeze, the third the file: what `ps` shows is what another worker, and
// a person, can go by.
const (
	helperCommand = "thaw-sqlite-helper"
	noToken       = "none"
)

// HelperMain runs the helper where the process was started as one, and does
// not return then. It is called first thing in main, and in TestMain.
func HelperMain() {
	if len(os.Args) != 4 || os.Args[1] != helperCommand {
		return
	}
	h := &helperMain{path: os.Args[3], out: json.NewEncoder(os.Stdout)}
	h.serve()
	os.Exit(0)
}

type op string

const (
	opOpen    op = "open"
	opQuery   op = "query"
	opArm     op = "arm"
	opMark    op = "mark"
	opRecall  op = "recall"
	opRestore op = "restore"
)

// request and response are a line of JSON each.
type request struct {
	Op       op     `json:"op"`
	Path     string `json:"path,omitempty"`
	Source   string `json:"source,omitempty"`
	Query    string `json:"query,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Millis   int64  `json:"millis,omitempty"` // of a wait for locks, of the helper's life
}

type response struct {
	Error   string   `json:"error,omitempty"`
	Columns []string `json:"columns,omitempty"`
	Last    []value  `json:"last,omitempty"`
	Rows    int64    `json:"rows,omitempty"`
	Pages   int64    `json:"pages,omitempty"`
	Since   string   `json:"since,omitempty"`
	File    string   `json:"file,omitempty"` // device and inode that were opened
}

// value keeps integers and strings apart on the wire.
type value struct {
	Null bool   `json:"null,omitempty"`
	Int  *int64 `json:"int,omitempty"`
	Text string `json:"text,omitempty"`
}

type helperMain struct {
	path  string
	out   *json.Encoder
	db    *sql.DB
	conn  *sql.Conn
	since time.Time
	file  string
}

func (h *helperMain) serve() {
	requests := make(chan request)
	go func() {
		// Read ahead of the work: the end of the worker ends even a helper
		// that waits for a lock.
		in := bufio.NewScanner(os.Stdin)
		in.Buffer(nil, 16<<20)
		for in.Scan() {
			var r request
			if err := json.Unmarshal(in.Bytes(), &r); err != nil {
				os.Exit(2)
			}
			requests <- r
		}
		os.Exit(0) // without a word to SQLite: the kernel drops the locks, nothing was written
	}()
	for r := range requests {
		out, err := h.do(context.Background(), r)
		if err != nil {
			out = response{Error: err.Error()}
		}
		if err := h.out.Encode(out); err != nil {
			return
		}
	}
}

func (h *helperMain) do(ctx context.Context, r request) (response, error) {
	switch r.Op {
	case opOpen:
		return response{}, h.open(ctx, r.ReadOnly)
	case opQuery:
		return h.query(ctx, r.Query)
	case opArm:
		time.AfterFunc(time.Duration(r.Millis)*time.Millisecond, func() { os.Exit(3) })
		return response{}, nil
	case opMark:
		h.since = time.Now()
		return h.recall(ctx)
	case opRecall:
		return h.recall(ctx)
	case opRestore:
		return h.restore(ctx, r.Source, r.Path)
	}
	return response{}, fmt.Errorf("helper: unknown request %q", r.Op)
}

// uri names a file to SQLite. mode rw: never make one that is not there.
func uri(path string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=rw"
}

func (h *helperMain) open(ctx context.Context, readOnly bool) error {
	db, err := sql.Open("sqlite", uri(h.path)+"&_pragma=busy_timeout(10000)")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	h.db = db
	if h.conn, err = db.Conn(ctx); err != nil {
		return err
	}
	// Reading the schema says whether it is a database, and rolls a hot
	// journal back or recovers the WAL, before the freeze.
	if _, err := h.query(ctx, "SELECT count(*) FROM sqlite_master"); err != nil {
		return err
	}
	if h.file, err = fileID(h.path); err != nil {
		return err
	}
	if readOnly {
		_, err = h.query(ctx, "PRAGMA query_only = 1")
	}
	return err
}

func fileID(path string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

func (h *helperMain) query(ctx context.Context, q string) (response, error) {
	if h.conn == nil {
		return response{}, errors.New("helper: no database is open")
	}
	rows, err := h.conn.QueryContext(ctx, q)
	if err != nil {
		return response{}, err
	}
	defer rows.Close()
	var r response
	if r.Columns, err = rows.Columns(); err != nil {
		return r, err
	}
	values := make([]any, len(r.Columns))
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return r, err
		}
		r.Rows++
		r.Last = r.Last[:0]
		for _, v := range values {
			r.Last = append(r.Last, toWire(v))
		}
	}
	return r, rows.Err()
}

func toWire(v any) value {
	switch x := v.(type) {
	case nil:
		return value{Null: true}
	case int64:
		return value{Int: &x}
	case []byte:
		return value{Text: string(x)}
	case time.Time:
		return value{Text: x.UTC().Format(time.RFC3339Nano)}
	default:
		return value{Text: fmt.Sprint(x)}
	}
}

// recall says since when the freeze is held. A transaction is still open where
// another cannot begin; and the path must still be the file that is locked,
// else what was copied is another one.
func (h *helperMain) recall(ctx context.Context) (response, error) {
	if h.since.IsZero() {
		return response{}, errors.New("this session froze nothing")
	}
	if _, err := h.query(ctx, "BEGIN"); err == nil {
		return response{}, errors.New("its transaction is over, and with it the lock: the freezing statements must leave a transaction open (BEGIN IMMEDIATE)")
	} else if !strings.Contains(err.Error(), "within a transaction") {
		return response{}, err
	}
	now, err := fileID(h.path)
	if err != nil {
		return response{}, err
	}
	if now != h.file {
		return response{}, fmt.Errorf("%s was replaced by another file during the freeze", h.path)
	}
	return response{Since: h.since.UTC().Format(time.RFC3339Nano), File: h.file}, nil
}

// restorer is modernc.org/sqlite's way to the online backup API.
type restorer interface {
	NewRestore(uri string) (*sqlite.Backup, error)
}

// restore loads source into path: one transaction of SQLite's own, so that
// readers see the old content or the new, and a failure leaves the old.
func (h *helperMain) restore(ctx context.Context, source, path string) (response, error) {
	if err := check(ctx, source); err != nil {
		return response{}, fmt.Errorf("the source %s is no sound database: %w", source, err)
	}
	if err := createLike(path, source); err != nil {
		return response{}, err
	}
	db, err := sql.Open("sqlite", uri(path)+"&_pragma=busy_timeout(5000)&_pragma=synchronous(full)")
	if err != nil {
		return response{}, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err != nil {
		return response{}, err
	}
	defer conn.Close()
	var pages int
	err = conn.Raw(func(c any) error {
		r, ok := c.(restorer)
		if !ok {
			return fmt.Errorf("the SQLite driver has no backup API")
		}
		b, err := r.NewRestore(uri(source))
		if err != nil {
			return err
		}
		for {
			more, err := b.Step(-1)
			var e *sqlite.Error
			if errors.As(err, &e) && (e.Code()&0xff == 5 || e.Code()&0xff == 6) { // BUSY, LOCKED: a writer or readers; the worker's timeout bounds it
				time.Sleep(50 * time.Millisecond)
				continue
			}
			if err != nil {
				_ = b.Finish()
				return fmt.Errorf("copy pages: %w", err)
			}
			if !more {
				pages = b.PageCount()
				return b.Finish()
			}
		}
	})
	if err != nil {
		return response{}, err
	}
	if err := check(ctx, path); err != nil {
		return response{}, fmt.Errorf("the restored database is not sound: %w", err)
	}
	return response{Pages: int64(pages)}, nil
}

// createLike makes an empty database file where there is none, with the mode
// and owner of the one that will be loaded.
func createLike(path, source string) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, st.Mode().Perm())
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make %s: %w; does its directory %s exist?", path, err, filepath.Dir(path))
	}
	defer f.Close()
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(s.Uid), int(s.Gid)) // only root may
	}
	return nil
}

func check(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", uri(path)+"&_pragma=busy_timeout(5000)")
	if err != nil {
		return err
	}
	defer db.Close()
	var first string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&first); err != nil {
		return err
	}
	if first != "ok" {
		return fmt.Errorf("integrity_check: %s", first)
	}
	return nil
}
