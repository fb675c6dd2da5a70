// Package retention says which restore points are kept, by the rule of
// grandfather, father and son. It knows times and counts, no store and no
// clock: the same list gives the same answer. Start with Keep.Apply.
package retention

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // a worker's image may have none
)

// Keep is the rule. Of each kind of period it keeps the newest restore point of
// each of the last so many periods that have one: a period without a backup
// uses up no place, so that a database that was away for a month has lost none
// of its history when it is back. This is restic's rule for its options
// --keep-*. (Proxmox Backup Server's differs: there a period that one kind keeps
// is not counted by the next.)
type Keep struct {
	Last    int `json:"last,omitempty"`
	Hourly  int `json:"hourly,omitempty"`
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"` // ISO weeks, from Monday
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`
	// TimeZone in which days begin: a name of the IANA's, such as
	// Europe/Zurich. Default: UTC.
	TimeZone string `json:"timeZone,omitempty"`
}

// UnmarshalJSON implements json.Unmarshaler. It refuses what it does not know:
// a count that is misspelt would delete what it was to keep.
func (k *Keep) UnmarshalJSON(b []byte) error {
	type plain Keep
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode((*plain)(k)); err != nil {
		return fmt.Errorf("keep: %w; want last, hourly, daily, weekly, monthly, yearly, timeZone", err)
	}
	return nil
}

// Validate says all that is wrong with a rule. One that keeps nothing by itself
// is one that somebody forgot to write.
func (k Keep) Validate() error {
	var faults []error
	sum := 0
	for _, c := range k.periods() {
		if c.count < 0 {
			faults = append(faults, fmt.Errorf("keep.%s is %d: want a count", c.name, c.count))
		}
		sum += max(c.count, 0)
	}
	if sum == 0 && len(faults) == 0 {
		faults = append(faults, errors.New("keep says nothing: give at least one of last, hourly, daily, weekly, monthly, yearly"))
	}
	if _, err := k.zone(); err != nil {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func (k Keep) zone() (*time.Location, error) {
	if k.TimeZone == "Local" { // that of whichever machine
		return nil, errors.New(`keep.timeZone "Local" is another on each machine: name one, such as Europe/Zurich`)
	}
	zone, err := time.LoadLocation(k.TimeZone) // UTC, where it is empty
	if err != nil {
		return nil, fmt.Errorf("keep.timeZone %q: want a name such as Europe/Zurich: %w", k.TimeZone, err)
	}
	return zone, nil
}

// period is one kind of periods.
type period struct {
	name  string
	count int
	// of names the period that a time is in.
	of func(time.Time) string
}

func (k Keep) periods() []period {
	layout := func(layout string) func(time.Time) string {
		return func(t time.Time) string { return t.Format(layout) }
	}
	return []period{
		{"last", k.Last, nil},
		// The hour that comes twice at the end of summer time is two.
		{"hourly", k.Hourly, layout("2006-01-02 15h -0700")},
		{"daily", k.Daily, layout("2006-01-02")},
		{"weekly", k.Weekly, func(t time.Time) string {
			year, week := t.ISOWeek()
			return fmt.Sprintf("%04d-W%02d", year, week)
		}},
		{"monthly", k.Monthly, layout("2006-01")},
		{"yearly", k.Yearly, layout("2006")},
	}
}

// Entry is what the rule asks of a restore point.
type Entry struct {
	ID          string
	CompletedAt time.Time
	Good        bool // what a person would restore first: a consistent one
	Proven      bool // a drill or a verify has read it back
}

// Verdict on an entry.
type Verdict struct {
	Entry
	Keep bool
	// Reasons to keep it, in words; none for one that is not kept.
	Reasons []string
}

// Apply returns the verdict on each entry, the newest first. Whatever the
// counts, it keeps the newest entry, the newest good one and the newest proven
// one. Errors: those of Validate.
func (k Keep) Apply(entries []Entry) ([]Verdict, error) {
	if err := k.Validate(); err != nil {
		return nil, err
	}
	zone, err := k.zone()
	if err != nil {
		return nil, err
	}
	list := make([]Verdict, len(entries))
	for i, e := range entries {
		list[i].Entry = e
	}
	slices.SortStableFunc(list, func(a, b Verdict) int {
		if c := b.CompletedAt.Compare(a.CompletedAt); c != 0 {
			return c
		}
		return cmp.Compare(b.ID, a.ID)
	})
	keep := func(i int, why string) {
		list[i].Keep, list[i].Reasons = true, append(list[i].Reasons, why)
	}
	for _, p := range k.periods() {
		last, left := "", p.count
		for i := 0; i < len(list) && left > 0; i++ {
			if p.of == nil {
				keep(i, fmt.Sprintf("last %d", i+1))
				left--
				continue
			}
			if name := p.of(list[i].CompletedAt.In(zone)); name != last {
				keep(i, p.name+" "+name)
				last = name
				left--
			}
		}
	}
	for _, a := range []struct {
		why string
		is  func(Entry) bool
	}{
		{"the newest", func(Entry) bool { return true }},
		{"the newest consistent one", func(e Entry) bool { return e.Good }},
		{"the newest proven one", func(e Entry) bool { return e.Proven }},
	} {
		if i := slices.IndexFunc(list, func(v Verdict) bool { return a.is(v.Entry) }); i >= 0 {
			keep(i, a.why)
		}
	}
	return list, nil
}
