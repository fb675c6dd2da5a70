// Package orphans finds what in a location belongs to no restore point. It
// reads every record, and compares what they name with what is there. In doubt
// something belongs. Start with Find.
package orphans

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/repository"
)

// Kind of an orphan.
type Kind string

// The kinds. Data and snapshots may be somebody's whom no record knows: of an
// ActionSet, of a run with "unpublished", or of another program.
const (
	Half     Kind = "half"     // files of a restore point that no list shows: its publication, or its deletion, was cut off
	Entry    Kind = "entry"    // an entry of the index whose record is gone
	Mark     Kind = "mark"     // marks of a restore point that is gone
	Data     Kind = "data"     // objects that no record names
	Snapshot Kind = "snapshot" // one in a repository, that no record names
)

// Bookkeeping reports whether orphans of the kind can only be Thaw's own.
func (k Kind) Bookkeeping() bool { return k == Half || k == Entry || k == Mark }

// young is the age below which what looks like an orphan may be in the making.
const young = 24 * time.Hour

// Orphan is what belongs to no restore point.
type Orphan struct {
	Kind Kind `json:"kind"`
	// Name of the object, or the path that all of its objects are below; of a
	// snapshot the path of its repository.
	Name     string    `json:"name"`
	ID       string    `json:"id,omitempty"` // of the restore point, or the snapshot
	Objects  int       `json:"objects"`
	Size     int64     `json:"size"` // bytes; of a snapshot those of its files
	Modified time.Time `json:"modified"`
	names    []string  // of data
}

// Report is what was found.
type Report struct {
	Orphans []Orphan `json:"orphans"`
	// Unknown says what could not be looked into, and why.
	Unknown []string `json:"unknown,omitempty"`
	Points  int      `json:"restorePoints"`
	Young   int      `json:"young"` // objects left out: they may be in the making
}

// Options of Find.
type Options struct {
	// Passphrase opens repositories, and checks the records' seals. Without one
	// repositories are not looked into.
	Passphrase string
	Now        time.Time
	// Bucket and Prefix of the profile: blueprints may put them before a path.
	Bucket, Prefix string
}

// Find lists a location whole, reads its records, and says what none of them
// names. Errors: those of the store.
func Find(ctx context.Context, s location.Store, o Options) (*Report, error) {
	f := &finding{o: o, groups: map[string]*group{}, entries: map[string]bool{}, records: map[string]bool{}, named: map[string]bool{}, report: &Report{Orphans: []Orphan{}}}
	if err := s.List(ctx, "", func(o location.Object) error { f.see(o); return nil }); err != nil {
		return nil, fmt.Errorf("look for orphans: %w", err)
	}
	whole, err := f.read(ctx, s)
	if err != nil {
		return nil, err
	}
	f.bookkeeping()
	if whole {
		f.data()
		if err := f.snapshots(ctx, s); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(f.report.Orphans, func(a, b Orphan) int { return strings.Compare(a.Name+"\n"+a.ID, b.Name+"\n"+b.ID) })
	return f.report, nil
}

// group is what is below one path.
type group struct {
	place    points.Place
	objects  int
	size     int64
	modified time.Time
}

type finding struct {
	o            Options
	groups       map[string]*group // by their paths
	entries      map[string]bool   // ids that the index has
	records      map[string]bool   // ids that have a record
	others       []location.Object
	repositories []string
	named        map[string]bool // paths and words of records
	text         strings.Builder // all of their words
	report       *Report
}

// see sorts an object by its name.
func (f *finding) see(o location.Object) {
	place := points.PlaceOf(o.Name)
	if place.ID == "" {
		if dir, ok := points.RepositoryOf(o.Name); ok {
			f.repositories = append(f.repositories, dir)
		}
		f.others = append(f.others, o)
		return
	}
	g := f.groups[place.Below]
	if g == nil {
		g = &group{place: place}
		f.groups[place.Below] = g
	}
	g.objects++
	g.size += o.Size
	if o.Modified.After(g.modified) {
		g.modified = o.Modified
	}
	if place.Entry {
		f.entries[place.ID] = true
	}
	if place.Record {
		f.records[place.ID] = true
	}
}

// read reads every record, and notes what it names. whole: all could be read;
// else what the others name is not known, and may be anything.
func (f *finding) read(ctx context.Context, s location.Store) (whole bool, err error) {
	var key points.Key
	if f.o.Passphrase != "" {
		if key, err = points.NewKey(f.o.Passphrase); err != nil {
			return false, err
		}
	}
	whole = true
	for id := range f.records {
		rp, err := points.Read(ctx, s, id, key)
		var parts []*plan.RestorePoint
		if err == nil {
			parts, err = points.Parts(ctx, s, rp)
		}
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case errors.Is(err, location.ErrNotFound) && rp == nil:
			continue // it was deleted meanwhile
		case err != nil:
			whole = false
			f.report.Unknown = append(f.report.Unknown, fmt.Sprintf("what %s names is not known, so no data is called an orphan: %v", id, err))
			continue
		}
		f.report.Points++
		for _, rp := range append(parts, rp) {
			f.note(rp)
		}
	}
	slices.Sort(f.report.Unknown)
	return whole, nil
}

// note notes all that could be a path, or an id, in what a record says of its
// data. What it says of the blueprint is left out: a text has examples.
func (f *finding) note(rp *plan.RestorePoint) {
	c := *rp
	c.BlueprintText = ""
	b, err := json.Marshal(c)
	if err != nil {
		return // it was read from JSON
	}
	var doc any
	if json.Unmarshal(b, &doc) == nil {
		f.words(doc)
	}
}

func (f *finding) words(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			f.words(k)
			f.words(e)
		}
	case []any:
		for _, e := range v {
			f.words(e)
		}
	case string:
		f.text.WriteString(v + "\n")
		f.path(v)
		for _, w := range strings.FieldsFunc(v, func(r rune) bool { return strings.ContainsRune(" \t\n\"'`,;()[]{}<>=", r) }) {
			f.path(w)
		}
	}
}

// path notes a text as a path in the location, without what blueprints may put
// before it: a scheme, the bucket.
func (f *finding) path(text string) {
	if i := strings.Index(text, "://"); i >= 0 {
		text = text[i+3:]
	}
	text = strings.Trim(path.Clean("/"+text), "/")
	f.named[text] = true
	for _, before := range []string{f.o.Bucket, f.o.Prefix} {
		if before = strings.Trim(before, "/"); before != "" {
			text = strings.TrimPrefix(text, before+"/")
			f.named[text] = true
		}
	}
}

func (f *finding) orphan(o Orphan) {
	if o.Modified.After(f.o.Now.Add(-young)) {
		f.report.Young += max(o.Objects, 1)
		return
	}
	f.report.Orphans = append(f.report.Orphans, o)
}

// bookkeeping finds what of Thaw's own is of no restore point.
func (f *finding) bookkeeping() {
	for name, g := range f.groups {
		id := g.place.ID
		o := Orphan{Name: name, ID: id, Objects: g.objects, Size: g.size, Modified: g.modified}
		switch {
		case g.place.Entry:
			o.Kind = Entry
			if f.records[id] {
				continue
			}
		case g.place.Mark:
			o.Kind = Mark
			if f.records[id] || f.entries[id] {
				continue
			}
		default:
			o.Kind = Half
			if f.entries[id] {
				continue // whether it is whole is for a verify to say
			}
		}
		f.orphan(o)
	}
}

// data finds objects that no record names, and shows those of one directory as
// one.
func (f *finding) data() {
	repositories := map[string]bool{}
	for _, r := range f.repositories {
		repositories[r] = true
	}
	below := map[string]*Orphan{}
	var order []string
	for _, o := range f.others {
		if within(repositories, o.Name) || within(f.named, o.Name) || strings.Contains(f.text.String(), o.Name) {
			continue
		}
		if o.Modified.After(f.o.Now.Add(-young)) {
			f.report.Young++
			continue
		}
		dir := path.Dir(o.Name)
		g := below[dir]
		if g == nil {
			g = &Orphan{Kind: Data, Name: o.Name}
			below[dir] = g
			order = append(order, dir)
		} else {
			g.Name = dir + "/"
		}
		g.names = append(g.names, o.Name)
		g.Objects++
		g.Size += o.Size
		if o.Modified.After(g.Modified) {
			g.Modified = o.Modified
		}
	}
	for _, dir := range order {
		f.report.Orphans = append(f.report.Orphans, *below[dir])
	}
}

// within reports whether a set has a name, or a path that it is below.
func within(set map[string]bool, name string) bool {
	for p := name; p != "." && p != "/"; p = path.Dir(p) {
		if set[p] {
			return true
		}
	}
	return false
}

// snapshots finds those that no record names.
func (f *finding) snapshots(ctx context.Context, s location.Store) error {
	slices.Sort(f.repositories)
	for _, at := range f.repositories {
		if f.o.Passphrase == "" {
			f.report.Unknown = append(f.report.Unknown, fmt.Sprintf("repository %s is not looked into: that needs the worker's key", at))
			continue
		}
		var list []*repository.Snapshot
		err := repository.With(ctx, s, repository.Options{Prefix: at, Passphrase: f.o.Passphrase}, func(r *repository.Repository) (err error) {
			list, err = r.List(ctx)
			return err
		})
		switch {
		case errors.Is(err, repository.ErrPassphrase):
			f.report.Unknown = append(f.report.Unknown, fmt.Sprintf("repository %s is not looked into: it opens with another passphrase", at))
			continue
		case err != nil:
			return fmt.Errorf("look for orphans: %w", err)
		}
		for _, sn := range list {
			if !f.names(sn.ID) && !f.names(sn.Tag) {
				f.orphan(Orphan{Kind: Snapshot, Name: at, ID: sn.ID, Size: sn.Size, Modified: sn.End})
			}
		}
	}
	return nil
}

func (f *finding) names(word string) bool {
	return word != "" && (f.named[word] || strings.Contains(f.text.String(), word))
}

// Remove deletes orphans. What cannot be deleted does not keep the others: it is
// in the error. A restore point that is listed by now is left alone.
func Remove(ctx context.Context, s location.Store, list []Orphan, passphrase string, note func(string)) error {
	entries, err := points.List(ctx, s)
	if err != nil {
		return err
	}
	var failed []error
	for _, o := range list {
		if o.Kind == Half && slices.ContainsFunc(entries, func(e points.Entry) bool { return e.ID == o.ID }) {
			note(o.Name + " is listed by now: left alone")
			continue
		}
		if err := o.remove(ctx, s, passphrase); err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", o.Kind, o.Name, err))
			if ctx.Err() != nil {
				break
			}
			continue
		}
		note(strings.TrimSpace(fmt.Sprintf("deleted %s %s %s", o.Kind, o.Name, o.ID)))
	}
	return errors.Join(failed...)
}

func (o *Orphan) remove(ctx context.Context, s location.Store, passphrase string) error {
	switch o.Kind {
	case Snapshot:
		return repository.With(ctx, s, repository.Options{Prefix: o.Name, Passphrase: passphrase}, func(r *repository.Repository) error { return r.Delete(ctx, o.ID) })
	case Data:
		var failed []error
		for _, n := range o.names {
			failed = append(failed, s.Delete(ctx, n))
		}
		return errors.Join(failed...)
	}
	_, err := location.Remove(ctx, s, o.Name, func(string) {})
	return err
}
