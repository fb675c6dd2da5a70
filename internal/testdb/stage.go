package testdb

import (
	"fmt"
	"slices"
	"sync"
)

// Stage is a TB whose cleanups run when it is closed: for databases that
// outlive one test, and for programs that are no test.
type Stage struct {
	mu   sync.Mutex
	undo []func()
}

// For returns a TB that fails, skips and logs as t does, and cleans up with
// the stage.
func (s *Stage) For(t TB) TB { return &staged{TB: t, s: s} }

type staged struct {
	TB
	s *Stage
}

func (t *staged) Cleanup(f func()) { t.s.Cleanup(f) }

// Close runs the cleanups, last first.
func (s *Stage) Close() {
	s.mu.Lock()
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(undo) {
		f()
	}
}

// Cleanup implements TB.
func (s *Stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, f)
}

// Helper implements TB.
func (*Stage) Helper() {}

// Logf implements TB: a program has its own log.
func (*Stage) Logf(string, ...any) {}

// Failure is what Fatalf and Skipf of a Stage panic with.
type Failure struct{ Message string }

func (f Failure) Error() string { return f.Message }

// Fatalf implements TB: it panics with a Failure.
func (*Stage) Fatalf(format string, args ...any) { panic(Failure{fmt.Sprintf(format, args...)}) }

// Skipf implements TB: a program that needs a database fails without it.
func (s *Stage) Skipf(format string, args ...any) { s.Fatalf(format, args...) }
