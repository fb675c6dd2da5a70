// Package points keeps restore points in a location, so that they are found
// with everything else lost. A restore point there is a directory of files, and
// a record which names each with its size and checksum; the record and its seal
// are written last, and then an entry of the index, whose name says what a list
// shows. Start with Publish and List.
package points

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"strings"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/location"
)

const (
	root       = "restorepoints"
	index      = "restorepoints-index"
	recordFile = plan.RestorePointFile
	// recordLimit bounds what is read of a record.
	recordLimit = 64 << 20
)

// Entry is what the index says of a restore point, without reading it.
type Entry struct {
	ID          string    `json:"id"`
	Target      string    `json:"target"`
	Blueprint   string    `json:"blueprint"`
	Consistent  bool      `json:"consistent"`
	CompletedAt time.Time `json:"completedAt"`

	// seal of the entry, in its name: retention counts entries, and reads none
	// of the records.
	seal string
}

// EntryOf is what the index says of a restore point.
func EntryOf(rp *plan.RestorePoint) Entry {
	return Entry{ID: rp.ID, Target: rp.Target.Key(), Blueprint: rp.Blueprint, Consistent: rp.Consistent, CompletedAt: rp.CompletedAt.UTC().Truncate(time.Second)}
}

// Of reports whether the entry is that of this record.
func (e Entry) Of(rp *plan.RestorePoint) bool { return e.bare().name() == EntryOf(rp).name() }

// bare is the entry without its seal.
func (e Entry) bare() Entry {
	e.seal = ""
	return e
}

// sealed is the entry with the seal of a key.
func (e Entry) sealed(k Key) Entry {
	if e = e.bare(); k != nil {
		e.seal = hex.EncodeToString(k.sum([]byte("entry\n" + e.name())))[:sealDigits]
	}
	return e
}

// Sealed reports whether a worker with the key wrote the entry. Of nobody's key
// every entry is.
func (e Entry) Sealed(k Key) bool {
	return k == nil || hmac.Equal([]byte(e.seal), []byte(e.sealed(k).seal))
}

const (
	stamp = "20060102T150405Z"
	// partLimit is what a part of a name has at most: a file system takes 255.
	partLimit = 200
	// sealDigits is what a name has of a seal: 128 bits.
	sealDigits = 32
)

// name is that of the entry: a list in the order of names is one in the order
// of time.
func (e Entry) name() string {
	word := "inconsistent"
	if e.Consistent {
		word = "consistent"
	}
	if e.seal != "" {
		word += "." + e.seal
	}
	return path.Join(index, e.CompletedAt.UTC().Format(stamp), e.ID, part(e.Target), part(e.Blueprint), word)
}

// part makes a text one part of a name. One that is too long is cut, and ends in
// a sum, so that two are never taken for one: the record has it whole.
func part(text string) string {
	name := "_" + url.QueryEscape(text) // never empty, nor dots alone
	if len(name) <= partLimit {
		return name
	}
	sum := sha256.Sum256([]byte(text))
	end := "~" + hex.EncodeToString(sum[:8])
	name = name[:partLimit-len(end)]
	if i := strings.LastIndexByte(name, '%'); i > len(name)-3 { // half an escape
		name = name[:i]
	}
	return name + end
}

func unpart(text string) string {
	s, err := url.QueryUnescape(strings.TrimPrefix(text, "_"))
	if err != nil {
		return text
	}
	return s
}

func parse(name string) (Entry, bool) {
	parts := strings.Split(strings.TrimPrefix(name, index+"/"), "/")
	if len(parts) != 5 {
		return Entry{}, false
	}
	at, err := time.Parse(stamp, parts[0])
	word, seal, has := strings.Cut(parts[4], ".")
	if err != nil || word != "consistent" && word != "inconsistent" || has && len(seal) != sealDigits {
		return Entry{}, false
	}
	return Entry{ID: parts[1], Target: unpart(parts[2]), Blueprint: unpart(parts[3]), Consistent: word == "consistent", CompletedAt: at, seal: seal}, true
}

// List returns the entries of the index, the oldest first. It reads no restore
// point.
func List(ctx context.Context, s location.Store) ([]Entry, error) {
	list := []Entry{}
	err := s.List(ctx, index+"/", func(o location.Object) error {
		if e, ok := parse(o.Name); ok {
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list restore points: %w", err)
	}
	return list, nil
}

// Listed returns the entry of a record, sealed with the key. Errors: fault.User
// where the index has it not, or says otherwise than the record.
func Listed(ctx context.Context, s location.Store, rp *plan.RestorePoint, key Key) (location.Object, error) {
	name := EntryOf(rp).sealed(key).name()
	o, err := s.Stat(ctx, name)
	if errors.Is(err, location.ErrNotFound) {
		err = fault.New(fault.User, "restore point %q: its entry in the index is missing, or says otherwise than its record: want %s; somebody changed it", rp.ID, name)
	}
	return o, err
}

// repositoryFile is in the root of every repository of Kopia's.
const repositoryFile = "kopia.repository"

// Repositories returns the paths of the repositories in a location, whose data
// restore points name. It looks at the name of every object.
func Repositories(ctx context.Context, s location.Store) (paths []string, err error) {
	err = s.List(ctx, "", func(o location.Object) error {
		if dir, ok := RepositoryOf(o.Name); ok {
			paths = append(paths, dir)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for repositories: %w", err)
	}
	return paths, nil
}

// RepositoryOf returns the path of the repository whose root has an object.
func RepositoryOf(name string) (string, bool) {
	dir, file := path.Split(name)
	return strings.TrimSuffix(dir, "/"), file == repositoryFile && dir != "" && PlaceOf(name).ID == ""
}

func at(id string, elem ...string) string {
	return path.Join(append([]string{root, id}, elem...)...)
}

// Read returns the record of a restore point, whose seal it checks where a key
// is given. Errors: location.ErrNotFound (fault.User) where there is none of
// that id; fault.User where the record or its seal was changed.
func Read(ctx context.Context, s location.Store, id string, key Key) (*plan.RestorePoint, error) {
	rp, _, err := read(ctx, s, id, key)
	switch {
	case errors.Is(err, location.ErrNotFound):
		return nil, fault.New(fault.User, "restore point %q: %s has none of that id; list what there is with: thaw restorepoint list (%w)", id, s, location.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("restore point %q: %w", id, err)
	}
	return rp, nil
}

func read(ctx context.Context, s location.Store, id string, key Key) (*plan.RestorePoint, []byte, error) {
	if !plan.ValidRestorePointID(id) {
		return nil, nil, fault.New(fault.User, "it is no id: want lower-case letters, digits, dots and dashes")
	}
	r, err := s.Get(ctx, at(id, recordFile), 0, -1)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, recordLimit))
	if err != nil {
		return nil, nil, err
	}
	if err := key.check(ctx, s, id, b); err != nil {
		return nil, nil, err
	}
	rp, err := plan.ParseRestorePoint(b)
	if err != nil {
		return nil, nil, fault.New(fault.User, "%s: %w", at(id, recordFile), err)
	}
	if rp.ID != id {
		return nil, nil, fault.New(fault.User, "%s is of %q: it was put there by hand", at(id, recordFile), rp.ID)
	}
	return rp, b, nil
}

func putBytes(ctx context.Context, s location.Store, name string, content []byte) error {
	_, err := s.Put(ctx, name, bytes.NewReader(content), location.PutOptions{Size: int64(len(content))})
	return err
}

// write writes the record, its seal, and its entry.
func write(ctx context.Context, s location.Store, rp *plan.RestorePoint, key Key) error {
	b, err := json.MarshalIndent(rp, "", "  ")
	if err != nil {
		return fault.New(fault.Permanent, "%w", err)
	}
	b = append(b, '\n')
	for _, o := range []struct {
		name    string
		content []byte
	}{{at(rp.ID, recordFile), b}, {at(rp.ID, sealFile), key.seal(b)}, {EntryOf(rp).sealed(key).name(), nil}} {
		if err := putBytes(ctx, s, o.name, o.content); err != nil {
			return err
		}
	}
	return nil
}

// Remove is Delete of a restore point whose entry is not at hand. It is found
// by its name: what its record says is not asked.
func Remove(ctx context.Context, s location.Store, id string, note func(string)) error {
	if !plan.ValidRestorePointID(id) {
		return fault.New(fault.User, "restore point %q: it is no id", id)
	}
	list, err := List(ctx, s)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.ID == id {
			if err := s.Delete(ctx, e.name()); err != nil {
				return fmt.Errorf("restore point %q: %w", id, err)
			}
		}
	}
	return removeFiles(ctx, s, id, note)
}

// Delete removes a restore point, its files and its marks; the data that it names
// by its artifacts is another's. Its entry goes first: what a list shows is
// whole. It is content where there is nothing.
func Delete(ctx context.Context, s location.Store, e Entry, note func(string)) error {
	if err := s.Delete(ctx, e.name()); err != nil {
		return fmt.Errorf("restore point %q: %w", e.ID, err)
	}
	return removeFiles(ctx, s, e.ID, note)
}

func removeFiles(ctx context.Context, s location.Store, id string, note func(string)) error {
	if _, err := location.Remove(ctx, s, at(id), note); err != nil {
		return fmt.Errorf("restore point %q: %w", id, err)
	}
	return Unmark(ctx, s, id)
}

// Place is what an object is to restore points, by its name.
type Place struct {
	ID    string // of its restore point; empty: it is none of theirs
	Below string // what it is part of: the restore point's files, its marks of a kind, the entry
	// Which of these; none: it is one of the restore point's files.
	Record, Entry, Mark bool
}

// PlaceOf says what an object is. One that has a name as ours have, but is none
// of ours, is nothing.
func PlaceOf(name string) Place {
	dir, rest, _ := strings.Cut(name, "/")
	if dir == index {
		e, ok := parse(name)
		if !ok || !plan.ValidRestorePointID(e.ID) {
			return Place{}
		}
		return Place{ID: e.ID, Below: name, Entry: true}
	}
	id, file, ok := strings.Cut(rest, "/")
	if !ok || !plan.ValidRestorePointID(id) {
		return Place{}
	}
	p := Place{ID: id, Below: dir + "/" + id}
	switch dir {
	case root:
		p.Record = file == recordFile
	case retiringMarks, keptMarks, releasedMarks, provenMarks:
		p.Mark = true
	default:
		return Place{}
	}
	return p
}
