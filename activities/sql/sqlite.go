package sql

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"thaw/blueprints/fault"
)

// sqliteFile speaks to a SQLite database file, through a helper process.
type sqliteFile struct{ target }

func newSQLite(t target) (*sqliteFile, error) {
	if !filepath.IsAbs(t.address) {
		return nil, fault.New(fault.User, "open sqlite database %q: give an absolute path", t.address)
	}
	return &sqliteFile{t}, nil
}

func (d *sqliteFile) exists() error {
	st, err := os.Stat(d.address)
	if err != nil {
		return fault.New(fault.User, "open sqlite database: %w", err)
	}
	if !st.Mode().IsRegular() {
		return fault.New(fault.User, "open sqlite database %s: it is no file", d.address)
	}
	return nil
}

func (d *sqliteFile) start(ctx context.Context, token string, readOnly bool) (*helper, error) {
	if err := d.exists(); err != nil {
		return nil, err
	}
	h, err := startHelper(ctx, d.stateDir, token, d.address)
	if err != nil {
		return nil, err
	}
	if _, err := h.call(ctx, request{Op: opOpen, ReadOnly: readOnly}); err != nil {
		h.close()
		return nil, fmt.Errorf("open sqlite database %s: %w", d.address, err)
	}
	return h, nil
}

func (d *sqliteFile) connect(ctx context.Context, readOnly bool) (session, error) {
	h, err := d.start(ctx, noToken, readOnly)
	if err != nil {
		return nil, err
	}
	if err := h.patience(ctx); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (d *sqliteFile) holder(ctx context.Context, token string, maxFreeze time.Duration) (holder, error) {
	h, err := d.start(ctx, token, false)
	if err != nil {
		return nil, err
	}
	h.max = maxFreeze
	return h, nil
}

func (d *sqliteFile) sweep(ctx context.Context, token string) (bool, error) {
	return sweepHelpers(ctx, d.stateDir, token)
}

// helper is the worker's end of a helper process.
type helper struct {
	stateDir, token, path string
	max                   time.Duration
	cmd                   *exec.Cmd
	started               string // by the kernel's clock: with the pid, one process for ever
	stdin                 io.WriteCloser
	out                   *bufio.Reader
	exited                chan struct{}
	mu                    sync.Mutex // one request at a time
}

func startHelper(ctx context.Context, stateDir, token, path string) (*helper, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fault.New(fault.Transient, "start SQLite helper: %w", err)
	}
	h := &helper{stateDir: stateDir, token: token, path: path, cmd: exec.CommandContext(context.WithoutCancel(ctx), exe, helperCommand, token, path), exited: make(chan struct{})}
	h.cmd.Dir = "/"
	h.cmd.Env = []string{}
	h.cmd.Stderr = os.Stderr
	// A group of its own: Ctrl-C at the worker ends the worker in order, which
	// ends this.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if h.stdin, err = h.cmd.StdinPipe(); err != nil {
		return nil, fault.New(fault.Transient, "start SQLite helper: %w", err)
	}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, fault.New(fault.Transient, "start SQLite helper: %w", err)
	}
	h.out = bufio.NewReaderSize(stdout, 64<<10)
	if err := h.cmd.Start(); err != nil {
		return nil, fault.New(fault.Transient, "start SQLite helper %s: %w", exe, err)
	}
	h.started = startTime(h.cmd.Process.Pid)
	go func() { _, _ = h.cmd.Process.Wait(); close(h.exited) }()
	return h, nil
}

// call sends a request and waits for its answer. When ctx ends first, the
// helper is killed: there is no other way out of a wait for a lock.
func (h *helper) call(ctx context.Context, r request) (response, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = h.cmd.Process.Kill() })
	defer stop()
	var resp response
	err := json.NewEncoder(h.stdin).Encode(r)
	if err == nil {
		var line []byte
		if line, err = h.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &resp)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return resp, fault.New(fault.Unknown, "%w; its SQLite helper was ended", context.Cause(ctx))
	case err != nil:
		return resp, fault.New(fault.Unknown, "its SQLite helper (process %d) ended: %w", h.cmd.Process.Pid, err)
	case resp.Error != "":
		return resp, fault.New(fault.Command, "%s", resp.Error)
	}
	return resp, nil
}

func (h *helper) query(ctx context.Context, q string) (result, error) {
	resp, err := h.call(ctx, request{Op: opQuery, Query: q})
	if err != nil {
		return result{}, err
	}
	r := result{columns: resp.Columns, rows: resp.Rows}
	for _, v := range resp.Last {
		switch {
		case v.Null:
			r.last = append(r.last, nil)
		case v.Int != nil:
			r.last = append(r.last, *v.Int)
		default:
			r.last = append(r.last, v.Text)
		}
	}
	return r, nil
}

// patience is how long its statements wait for another's lock: as long as the
// call may take, less what it needs to say so.
func (h *helper) patience(ctx context.Context) error {
	left := time.Minute
	if d, ok := ctx.Deadline(); ok {
		left = max(time.Until(d)*9/10, time.Millisecond)
	}
	_, err := h.query(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", left.Milliseconds()))
	return err
}

// close ends the helper, and waits for it.
func (h *helper) close() {
	_ = h.stdin.Close()
	select {
	case <-h.exited:
	case <-time.After(2 * time.Second):
		_ = h.cmd.Process.Kill()
		<-h.exited
	}
	removeJournal(h.stateDir, h.token)
}

func (h *helper) arm(ctx context.Context) error {
	if err := writeJournal(h.stateDir, journalEntry{
		Token: h.token, Path: h.path, PID: h.cmd.Process.Pid, Started: h.started, Expires: time.Now().Add(h.max),
	}); err != nil {
		return err
	}
	if _, err := h.call(ctx, request{Op: opArm, Millis: max(h.max.Milliseconds(), 1)}); err != nil {
		return err
	}
	return h.patience(ctx)
}

func (h *helper) mark(ctx context.Context) (mark, error) { return h.note(ctx, opMark) }

func (h *helper) recall(ctx context.Context) (mark, error) { return h.note(ctx, opRecall) }

func (h *helper) note(ctx context.Context, o op) (mark, error) {
	r, err := h.call(ctx, request{Op: o})
	if err != nil {
		return mark{}, err
	}
	return mark{session: fmt.Sprintf("sqlite:%d@%s/%s", h.cmd.Process.Pid, h.started, r.File), since: r.Since}, nil
}

func (h *helper) linger(context.Context, time.Duration) error {
	return errors.New("nothing lives in a session of SQLite after its thaw")
}

func (h *helper) end(ctx context.Context) error {
	_ = h.stdin.Close()
	_ = h.cmd.Process.Kill()
	select {
	case <-h.exited:
		removeJournal(h.stateDir, h.token)
		return nil
	case <-ctx.Done():
		return fault.New(fault.Transient, "end SQLite helper, process %d: killed, it is still there: %w", h.cmd.Process.Pid, context.Cause(ctx))
	}
}
