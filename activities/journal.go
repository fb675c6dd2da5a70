package activities

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"thaw/blueprints/plan"
)

// journal keeps, on the worker's own disk, the freezes that it is making: how
// to thaw them, and no secret (arguments are templates). A worker that starts
// sweeps what dead ones left, with or without Temporal (design.md §4.5).
type journal struct {
	dir   string
	swept sync.Map // tokens of freezes whose owner was found dead
}

type entry struct {
	Input plan.FreezeInput `json:"input"`
	// Owner is the process that froze: its pid and start time.
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal of freezes: %w", err)
	}
	return &journal{dir: dir}, nil
}

func (j *journal) path(token string) string { return filepath.Join(j.dir, token+".json") }

// write records the intent to freeze; it is on disk when write returns.
func (j *journal) write(in plan.FreezeInput) error {
	b, err := json.Marshal(entry{in, os.Getpid(), processStart(os.Getpid())})
	if err != nil {
		return fmt.Errorf("journal freeze %s: %w", in.Token, err)
	}
	if err := writeFile(j.path(in.Token), b); err != nil {
		return fmt.Errorf("journal freeze %s: %w", in.Token, err)
	}
	return nil
}

func (j *journal) clear(token string) error {
	if err := os.Remove(j.path(token)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal freeze %s: %w", token, err)
	}
	return nil
}

// orphaned reports whether the process that journaled the freeze is dead.
func (j *journal) orphaned(token string) bool {
	if _, ok := j.swept.Load(token); ok {
		return true
	}
	var e entry
	b, err := os.ReadFile(j.path(token))
	return err == nil && json.Unmarshal(b, &e) == nil && processStart(e.PID) != e.Start
}

// abandoned lists the freezes whose owner is dead.
func (j *journal) abandoned() ([]plan.FreezeInput, error) {
	files, err := filepath.Glob(filepath.Join(j.dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("journal of freezes: %w", err)
	}
	var all []plan.FreezeInput
	var faults []error
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var e entry
		if err == nil {
			err = json.Unmarshal(b, &e)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("journal entry %s: %w; look at it, thaw by hand, remove it", f, err))
			continue
		}
		if processStart(e.PID) == e.Start {
			continue // alive: it thaws by itself
		}
		j.swept.Store(e.Input.Token, true)
		all = append(all, e.Input)
	}
	return all, errors.Join(faults...)
}

// processStart tells a process from a later one of the same pid: the start
// time in clock ticks since boot (proc(5), field 22 of stat). "" where there
// is no such process.
func processStart(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The command, in parentheses, may hold spaces.
	_, rest, _ := strings.Cut(string(b[strings.LastIndexByte(string(b), ')'):]), " ")
	fields := strings.Fields(rest)
	const startTime = 22 - 3
	if len(fields) <= startTime || fields[0] == "Z" {
		return ""
	}
	return fields[startTime]
}

// writeFile writes a file whole or not at all, and to disk.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
