package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/points"
)

// Record writes a restore point: whole or not at all, and to disk, before the
// run says that it has one. Idempotent.
func (e *Engine) Record(_ context.Context, rp plan.RestorePoint) (*plan.RestorePoint, error) {
	r, err := e.writeRestorePoint(rp)
	return r, e.toTemporal(err)
}

func (e *Engine) writeRestorePoint(rp plan.RestorePoint) (*plan.RestorePoint, error) {
	b, err := json.MarshalIndent(rp, "", "  ")
	if err != nil {
		return nil, fault.New(fault.Permanent, "restore point %s: %w", rp.ID, err)
	}
	if clean := e.redact.Text(string(b)); clean != string(b) {
		return nil, fault.New(fault.Permanent, "restore point %s: an artifact or an output holds a secret of this worker; change the blueprint so that it does not", rp.ID)
	}
	if err := os.MkdirAll(rp.Directory, 0o750); err != nil {
		return nil, fault.New(fault.Permanent, "restore point %s: %w", rp.ID, err)
	}
	if err := writeFile(filepath.Join(rp.Directory, plan.RestorePointFile), append(b, '\n')); err != nil {
		return nil, fault.New(fault.Transient, "restore point %s: %w", rp.ID, err)
	}
	return &rp, nil
}

// Forget removes the record of a restore point whose data was deleted, and its
// directory where nothing is left in it. Idempotent.
func (e *Engine) Forget(_ context.Context, ref plan.RestorePointRef) error {
	if err := os.Remove(filepath.Join(ref.Directory, plan.RestorePointFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return e.toTemporal(fault.New(fault.Transient, "forget restore point %s: %w", ref.ID, err))
	}
	// What is still there is not ours to judge: a directory with it stays.
	_ = os.Remove(ref.Directory)
	for _, marks := range points.MarkDirectories(ref.ID) {
		marks = filepath.Join(filepath.Dir(ref.Directory), marks)
		if err := os.RemoveAll(marks); err != nil {
			return e.toTemporal(fault.New(fault.Transient, "forget restore point %s: %w", ref.ID, err))
		}
		_ = os.Remove(filepath.Dir(marks))
	}
	return nil
}

// readRestorePoint finds a restore point by its id in a location, or by the
// path of its directory or file.
func (e *Engine) readRestorePoint(from, location string) (*plan.RestorePoint, error) {
	dir := from
	if !filepath.IsAbs(from) {
		if !plan.ValidRestorePointID(from) {
			return nil, fault.New(fault.User, "from %q: want the id of a restore point, or an absolute path", from)
		}
		dir = filepath.Join(location, from)
	}
	file := strings.TrimSuffix(dir, "/"+plan.RestorePointFile)
	file = filepath.Join(file, plan.RestorePointFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.User, "restore point %q: no %s; list what there is with: thaw restorepoint list", from, file)
	}
	if err != nil {
		return nil, fault.New(fault.Permanent, "restore point %q: %w", from, err)
	}
	rp, err := plan.ParseRestorePoint(b)
	if err != nil {
		return nil, fault.New(fault.User, "restore point %s: %w", file, err)
	}
	rp.Relocate(filepath.Dir(file)) // it may have been moved or mounted elsewhere
	return rp, nil
}

var notID = regexp.MustCompile(`[^a-z0-9]+`)

// restorePointID is readable, sorts by time, and is the same in every attempt
// of one run.
func restorePointID(t plan.Target, at time.Time, run plan.Run) string {
	base := strings.Trim(notID.ReplaceAllString(strings.ToLower(filepath.Base(t.Name)), "-"), "-")
	if len(base) > 40 {
		base = base[:40]
	}
	// The end of it: a run's id begins with its time (UUID version 7), and two
	// backups of one second would be one.
	short := run.Original
	if len(short) > 8 {
		short = short[len(short)-8:]
	}
	return fmt.Sprintf("%s-%s-%s", base, at.UTC().Format("20060102t150405z"), short)
}
