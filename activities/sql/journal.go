package sql

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"thaw/blueprints/fault"
)

// The journal says which helper process holds which freeze, so that another
// worker on the host, or this one after a restart, finds it. What it says is
// checked against the process itself before anything is killed.

type journalEntry struct {
	Token   string    `json:"token"`
	Path    string    `json:"path"`
	PID     int       `json:"pid"`
	Started string    `json:"started"`
	Expires time.Time `json:"expires"`
}

func journalPath(stateDir, token string) string {
	return filepath.Join(stateDir, "holds", token+".json")
}

func writeJournal(stateDir string, e journalEntry) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := journalPath(stateDir, e.Token)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fault.New(fault.Transient, "journal of freeze %s: %w", e.Token, err)
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fault.New(fault.Transient, "journal of freeze %s: %w", e.Token, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fault.New(fault.Transient, "journal of freeze %s: %w", e.Token, err)
	}
	return nil
}

func removeJournal(stateDir, token string) {
	if token != noToken {
		_ = os.Remove(journalPath(stateDir, token))
	}
}

// startTime is when the kernel started the process, in ticks since boot: a pid
// comes back, a pid with its start time does not. Empty where it is gone.
func startTime(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name, in parentheses, may hold anything.
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return "" // a zombie holds nothing
	}
	return fields[19]
}

// holdsToken says whether that process is a helper that carries the token.
func holdsToken(pid int, token string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	return len(args) >= 4 && args[1] == helperCommand && args[2] == token
}

// sweepHelpers ends the helpers that carry the token: the one of the journal,
// and any that `ps` would show, should the journal be lost.
func sweepHelpers(ctx context.Context, stateDir, token string) (found bool, err error) {
	pids := map[int]bool{}
	if b, err := os.ReadFile(journalPath(stateDir, token)); err == nil {
		var e journalEntry
		if json.Unmarshal(b, &e) == nil && e.Token == token && e.Started != "" && startTime(e.PID) == e.Started && holdsToken(e.PID, token) {
			pids[e.PID] = true
		}
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, fault.New(fault.Transient, "find SQLite helper of freeze %s: %w", token, err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && holdsToken(pid, token) {
			pids[pid] = true
		}
	}
	for pid := range pids {
		if err := killHelper(ctx, pid, token); err != nil {
			return true, err
		}
	}
	removeJournal(stateDir, token)
	return len(pids) > 0, nil
}

func killHelper(ctx context.Context, pid int, token string) error {
	// A handle on the process: its number cannot pass to another meanwhile.
	p, err := os.FindProcess(pid)
	if err != nil {
		return fault.New(fault.Transient, "end SQLite helper %d of freeze %s: %w", pid, token, err)
	}
	defer func() { _ = p.Release() }()
	for pause := time.Millisecond; holdsToken(pid, token); pause = min(2*pause, 50*time.Millisecond) {
		if err := p.Signal(syscall.SIGKILL); err != nil && holdsToken(pid, token) {
			return fault.New(fault.Transient, "end SQLite helper %d of freeze %s: %w; the worker needs its user's rights", pid, token, err)
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Transient, "end SQLite helper %d of freeze %s: killed, it is still there: %w", pid, token, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
	return nil
}
