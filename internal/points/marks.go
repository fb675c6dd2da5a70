package points

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

// Marks are objects whose names say it all: DIRECTORY/ID/TIME. Their contents
// are for people. In a location that locks, none can be taken away for a while;
// so the newest word holds, and a mark that is taken back may stay.
const (
	retiringMarks = "restorepoints-retiring" // ID/TIME-UNTIL: to be deleted after that
	keptMarks     = "restorepoints-kept"     // by a person, whatever retention says
	releasedMarks = "restorepoints-released" // marks of both kinds from before hold no more
	provenMarks   = "restorepoints-proven"   // read back, all of it, and found whole
)

// markStamp has parts of seconds, since the newest mark holds.
const markStamp = "20060102T150405.000000000Z"

// Mark is what a mark says to people.
type Mark struct {
	At     time.Time `json:"at"`
	Until  time.Time `json:"until,omitzero"`
	By     string    `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	Run    string    `json:"run,omitempty"` // workflow id
}

// Marks are those of a restore point that hold.
type Marks struct {
	// Retiring is when it is deleted; zero where it is not to be.
	Retiring time.Time `json:"retiringUntil,omitzero"`
	// Kept since then, by a person.
	Kept time.Time `json:"keptSince,omitzero"`
	// Proven is when it was last read back whole, by a verify or a drill.
	Proven time.Time `json:"provenAt,omitzero"`
}

// State is a restore point as a list shows it.
type State struct {
	Entry
	Marks
	// Forged: no worker with the key wrote the entry.
	Forged bool `json:"forged,omitempty"`
}

// States returns the restore points of a location, the oldest first, with their
// marks, and says, where a key is given, whose entries it did not seal. It reads
// none of them.
func States(ctx context.Context, s location.Store, key Key) ([]State, error) {
	list := []State{}
	err := s.List(ctx, index+"/", func(o location.Object) error {
		e, ok := parse(o.Name)
		if !ok {
			return nil
		}
		st := State{Entry: e, Forged: !e.Sealed(key)}
		// One that was sealed anew may have its old entry beside it.
		if last := len(list) - 1; last >= 0 && list[last].bare() == e.bare() {
			if list[last].Forged {
				list[last] = st
			}
			return nil
		}
		list = append(list, st)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list restore points: %w", err)
	}
	marks, err := AllMarks(ctx, s)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Marks = marks[list[i].ID]
	}
	return list, nil
}

// AllMarks returns the marks of a location, by the ids of restore points.
func AllMarks(ctx context.Context, s location.Store) (map[string]Marks, error) {
	found, err := marksBelow(ctx, s, "")
	all := make(map[string]Marks, len(found))
	for id, f := range found {
		all[id] = f.hold()
	}
	return all, err
}

// MarksOf returns those of one restore point.
func MarksOf(ctx context.Context, s location.Store, id string) (Marks, error) {
	f, err := marksOf(ctx, s, id)
	return f.hold(), err
}

// found are the newest marks of each kind, and the names of all.
type found struct {
	retiring, until, kept, released, proven time.Time
	names                                   map[string][]string
}

func (f *found) hold() Marks {
	m := Marks{Proven: f.proven}
	switch {
	case f.kept.After(f.released):
		m.Kept = f.kept
	case f.retiring.After(f.released) && f.retiring.After(f.kept):
		m.Retiring = f.until
	}
	return m
}

// next is a time for a new mark: later than those that it is to win over,
// whatever the clocks of those who wrote them said.
func (f *found) next(now time.Time) time.Time {
	for _, t := range []time.Time{f.retiring, f.kept, f.released} {
		if !now.After(t) {
			now = t.Add(time.Nanosecond)
		}
	}
	return now.UTC()
}

func marksOf(ctx context.Context, s location.Store, id string) (*found, error) {
	if !plan.ValidRestorePointID(id) {
		return &found{}, fault.New(fault.User, "restore point %q: it is no id: want lower-case letters, digits, dots and dashes", id)
	}
	all, err := marksBelow(ctx, s, id+"/")
	if f := all[id]; f != nil {
		return f, err
	}
	return &found{}, err
}

func marksBelow(ctx context.Context, s location.Store, prefix string) (map[string]*found, error) {
	all := map[string]*found{}
	for _, kind := range []string{retiringMarks, keptMarks, releasedMarks, provenMarks} {
		err := s.List(ctx, kind+"/"+prefix, func(o location.Object) error {
			id, at, until, ok := parseMark(kind, o.Name)
			if !ok {
				return nil // not of ours
			}
			f := all[id]
			if f == nil {
				f = &found{names: map[string][]string{}}
				all[id] = f
			}
			newest := map[string]*time.Time{retiringMarks: &f.retiring, keptMarks: &f.kept, releasedMarks: &f.released, provenMarks: &f.proven}[kind]
			if at.After(*newest) {
				*newest = at
				if kind == retiringMarks {
					f.until = until
				}
			}
			f.names[kind] = append(f.names[kind], o.Name)
			return nil
		})
		if err != nil {
			return all, fmt.Errorf("list the marks of restore points: %w", err)
		}
	}
	return all, nil
}

func parseMark(kind, name string) (id string, at, until time.Time, ok bool) {
	id, when, ok := strings.Cut(strings.TrimPrefix(name, kind+"/"), "/")
	from, to, _ := strings.Cut(when, "-")
	at, err := time.Parse(markStamp, from)
	if err == nil && kind == retiringMarks {
		until, err = time.Parse(markStamp, to)
	}
	return id, at, until, ok && err == nil
}

func putMark(ctx context.Context, s location.Store, kind, id, name string, m Mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fault.New(fault.Permanent, "mark restore point %q: %w", id, err)
	}
	if err := putBytes(ctx, s, path.Join(kind, id, name), append(b, '\n')); err != nil {
		return fmt.Errorf("mark restore point %q: %w", id, err)
	}
	return nil
}

// takeAway deletes marks. left: a lock holds one.
func takeAway(ctx context.Context, s location.Store, names []string) (left bool, err error) {
	for _, n := range names {
		switch err := s.Delete(ctx, n); {
		case errors.Is(err, location.ErrLocked):
			left = true
		case err != nil:
			return true, fmt.Errorf("take a mark away: %w", err)
		}
	}
	return left, nil
}

// Retire marks a restore point as one that is to be deleted after m.Until.
func Retire(ctx context.Context, s location.Store, id string, m Mark) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	m.At, m.Until = f.next(m.At), m.Until.UTC()
	return putMark(ctx, s, retiringMarks, id, m.At.Format(markStamp)+"-"+m.Until.Format(markStamp), m)
}

// Undo takes back that a restore point is to be deleted.
func Undo(ctx context.Context, s location.Store, id string, m Mark) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	left, err := takeAway(ctx, s, f.names[retiringMarks])
	if err != nil || !left || f.hold().Retiring.IsZero() {
		return err
	}
	m.At = f.next(m.At)
	return putMark(ctx, s, releasedMarks, id, m.At.Format(markStamp), m)
}

// Keep has a restore point kept, whatever retention says, and takes back that it
// is to be deleted.
func Keep(ctx context.Context, s location.Store, id string, m Mark) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	m.At = f.next(m.At)
	if err := putMark(ctx, s, keptMarks, id, m.At.Format(markStamp), m); err != nil {
		return err
	}
	_, err = takeAway(ctx, s, append(f.names[retiringMarks], f.names[keptMarks]...))
	return err
}

// Release ends a Keep: retention has it again.
func Release(ctx context.Context, s location.Store, id string, m Mark) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	left, err := takeAway(ctx, s, append(f.names[retiringMarks], f.names[keptMarks]...))
	if err != nil || !left {
		return err
	}
	m.At = f.next(m.At)
	return putMark(ctx, s, releasedMarks, id, m.At.Format(markStamp), m)
}

// Prove marks a restore point as one that was read back whole. Who restores one
// in a drill calls it too.
func Prove(ctx context.Context, s location.Store, id string, m Mark) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	if m.At = m.At.UTC(); !m.At.After(f.proven) {
		m.At = f.proven.Add(time.Nanosecond)
	}
	if err := putMark(ctx, s, provenMarks, id, m.At.Format(markStamp), m); err != nil {
		return err
	}
	_, err = takeAway(ctx, s, f.names[provenMarks])
	return err
}

// Unmark takes the marks of a restore point away that is gone. Those that a
// lock holds stay, and mean nothing.
func Unmark(ctx context.Context, s location.Store, id string) error {
	f, err := marksOf(ctx, s, id)
	if err != nil {
		return err
	}
	for _, names := range f.names {
		if _, err := takeAway(ctx, s, names); err != nil {
			return err
		}
	}
	return nil
}

// MarkDirectories are where the marks of a restore point are below a directory
// of restore points; none for what is no id.
func MarkDirectories(id string) (all []string) {
	if !plan.ValidRestorePointID(id) {
		return nil
	}
	for _, kind := range []string{retiringMarks, keptMarks, releasedMarks, provenMarks} {
		all = append(all, path.Join(kind, id))
	}
	return all
}

// Directory opens a directory of restore points for its marks: they are below
// it, as they are below a location.
func Directory(ctx context.Context, dir string) (location.Store, error) {
	return location.Open(ctx, templates.Profile{Location: templates.Location{Type: location.TypeDirectory, Bucket: dir}})
}
