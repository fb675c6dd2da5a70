package blueprints

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity of a fault. Only errors keep a blueprint from being run.
type Severity string

// The severities.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Fault is one thing wrong with a blueprint, and where.
type Fault struct {
	File     string   `json:"file"`
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Path     string   `json:"path,omitempty"`
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // stable, for suppressions and searches
	Message  string   `json:"message"`
}

// String is the fault as a compiler would print it.
func (f Fault) String() string {
	where := ""
	if f.Path != "" {
		where = f.Path + ": "
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s%s [%s]", f.File, f.Line, f.Column, f.Severity, where, f.Message, f.Code)
}

// Faults are all faults of one run, in the order of the file.
type Faults []Fault

// Errors are the faults that keep a blueprint from being run.
func (f Faults) Errors() Faults { return f.of(Error) }

// Warnings are the others.
func (f Faults) Warnings() Faults { return f.of(Warning) }

func (f Faults) of(s Severity) Faults {
	var out Faults
	for _, x := range f {
		if x.Severity == s {
			out = append(out, x)
		}
	}
	return out
}

// Err returns the errors among the faults as one error, or nil.
func (f Faults) Err() error {
	if e := f.Errors(); len(e) > 0 {
		return e
	}
	return nil
}

// Error lists the faults, one a line.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, x := range f {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders the faults as the file has them, and drops repetitions (what an
// alias names twice is wrong once).
func (f Faults) Sort() Faults {
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(f, func(a, b Fault) bool {
		a.Path, b.Path = "", ""
		return a == b
	})
}
