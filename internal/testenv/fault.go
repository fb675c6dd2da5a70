package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/testdb"
)

// A Point is a place in a freeze at which a fault can be set.
type Point string

// The points of a freeze.
const (
	Do   Point = "do"   // SQLFreeze
	Cut  Point = "cut"  // SnapshotPath, CutVolumes
	Undo Point = "undo" // SQLThaw
)

// A Mode is what goes wrong there.
type Mode string

// The modes of a fault. Where one waits, it first makes the file "reached",
// and goes on when the test makes the file "go".
const (
	Before     Mode = "before"      // waits before the call, as long as its context lets it
	Deaf       Mode = "deaf"        // waits before the call whatever its context says, and then makes it all the same
	During     Mode = "during"      // makes "reached" and the call at once
	After      Mode = "after"       // waits after the call
	Fails      Mode = "fails"       // does not make the call, and fails
	FailsAfter Mode = "fails-after" // makes the call, and reports an error
	HangsAfter Mode = "hangs-after" // makes the call, and does not return, whatever its context says
)

// Fault is one fault, met once.
type Fault struct {
	Point Point
	Mode  Mode
	Dir   string
}

// NewFault returns a fault with a directory of its own.
func NewFault(p Point, m Mode, dir string) *Fault { return &Fault{p, m, dir} }

func (f *Fault) encode(t testdb.TB) string {
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return string(b)
}

func (f *Fault) file(name string) string { return filepath.Join(f.Dir, name) }

func exists(file string) bool { _, err := os.Stat(file); return err == nil }

func touch(file string) { _ = os.WriteFile(file, nil, 0o600) }

// Reached reports whether the point was reached.
func (f *Fault) Reached() bool { return exists(f.file("reached")) }

// Go lets what waits at the point go on.
func (f *Fault) Go() { touch(f.file("go")) }

// faults returns what puts the encoded fault into a worker's functions.
func faults(text string) (func([]function.Function) []function.Function, error) {
	if text == "" {
		return nil, nil
	}
	var f Fault
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return nil, err
	}
	names := map[string]Point{"SQLFreeze": Do, "SnapshotPath": Cut, "CutVolumes": Cut, "SQLThaw": Undo}
	return func(list []function.Function) []function.Function {
		for i := range list {
			if names[list[i].Name] == f.Point {
				list[i].Bind = f.bind(list[i].Bind)
			}
		}
		return list
	}, nil
}

type bindFunc = func(context.Context, *function.Env, map[string]any) (function.Act, func(), error)

func (f *Fault) bind(real bindFunc) bindFunc {
	return func(ctx context.Context, env *function.Env, args map[string]any) (function.Act, func(), error) {
		act, release, err := real(ctx, env, args)
		if err != nil {
			return nil, nil, err
		}
		return func(ctx context.Context) (plan.Values, error) { return f.meet(ctx, act) }, release, nil
	}
}

func (f *Fault) meet(ctx context.Context, act function.Act) (plan.Values, error) {
	once, err := os.OpenFile(f.file("met"), os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return act(ctx) // met before
	}
	_ = once.Close()
	forever := context.WithoutCancel(ctx)
	touch(f.file("reached"))
	switch f.Mode {
	case Before:
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		return act(ctx)
	case Deaf:
		_ = f.wait(forever)
		return act(forever)
	case During:
		return act(ctx)
	case After:
		out, err := act(ctx)
		_ = f.wait(ctx)
		return out, err
	case Fails:
		return nil, fault.New(fault.Permanent, "injected failure at %s", f.Point)
	case FailsAfter:
		_, err := act(ctx)
		return nil, errors.Join(fault.New(fault.Unknown, "injected failure after the effect of %s", f.Point), err)
	case HangsAfter:
		out, err := act(forever)
		_ = f.wait(forever)
		return out, err
	}
	return nil, fmt.Errorf("fault mode %q", f.Mode)
}

func (f *Fault) wait(ctx context.Context) error {
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for !exists(f.file("go")) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
	return nil
}

func notify() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}
