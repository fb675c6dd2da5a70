package sql

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// statement is one element of the argument `statements`.
type statement struct {
	Query   string            `arg:"query"`
	Into    map[string]string `arg:"into"`
	Expect  *string           `arg:"expect"`
	Until   bool              `arg:"until"`
	Timeout time.Duration     `arg:"timeout"`
	// Attempts for a statement that the server refuses: a lock that is given
	// up and asked for anew lets those through that it deadlocked with.
	Attempts int `arg:"attempts"`

	redact func(string) string
}

// verb names a statement in errors: its first words, since the rest may hold
// what is nobody's business.
func (s statement) verb() string {
	words := strings.Fields(s.Query)
	return strings.ToUpper(strings.Join(words[:min(2, len(words))], " "))
}

func parseStatements(env *function.Env, raw []any) ([]statement, error) {
	list := make([]statement, 0, len(raw))
	for i, r := range raw {
		var s statement
		if q, ok := r.(string); ok {
			s.Query = q
		} else {
			dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
				Result: &s, TagName: "arg", WeaklyTypedInput: true, ErrorUnused: true,
				DecodeHook: mapstructure.StringToTimeDurationHookFunc(),
			})
			if err != nil {
				return nil, err
			}
			if err := dec.Decode(r); err != nil {
				return nil, fault.New(fault.User, "statement %d: %w; write a string, or {query, into, expect, until, attempts, timeout}", i+1, err)
			}
		}
		if strings.TrimSpace(s.Query) == "" {
			return nil, fault.New(fault.User, "statement %d: it has no query", i+1)
		}
		for output := range s.Into {
			if slices.Contains(reserved, output) {
				return nil, fault.New(fault.User, "statement %d: output %q is the function's own; choose another name in into", i+1, output)
			}
		}
		s.redact = env.Redact
		list = append(list, s)
	}
	return list, nil
}

// reserved outputs: a statement must not be able to forge a proof.
var reserved = []string{"session", "since", "held", "lost", "rows"}

// result is what the last result set of a statement held.
type result struct {
	columns []string
	last    []any // string, int64, bool; nil for NULL
	rows    int64
}

// run runs statements in order. Outputs are those of `into`.
func run(ctx context.Context, s session, list []statement, out function.Outputs) (rows int64, err error) {
	for i, st := range list {
		r, err := st.run(ctx, s)
		if err != nil {
			return rows, fmt.Errorf("statement %d of %d (%s): %w", i+1, len(list), st.verb(), err)
		}
		rows = r.rows
		if st.Expect != nil {
			if got := fmt.Sprint(r.first()); r.rows == 0 || got != *st.Expect {
				return rows, fault.New(fault.Command, "statement %d of %d (%s): it returned %q, expected %q", i+1, len(list), st.verb(), st.short(got), *st.Expect)
			}
		}
		for output, column := range st.Into {
			v, err := r.column(column)
			if err != nil {
				return rows, fmt.Errorf("statement %d of %d (%s): output %q: %w", i+1, len(list), st.verb(), output, err)
			}
			out[output] = v
		}
	}
	return rows, nil
}

func (st statement) run(ctx context.Context, s session) (result, error) {
	if st.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, st.Timeout)
		defer cancel()
	}
	left := st.Attempts
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		r, err := s.query(ctx, st.Query)
		for left--; err != nil && left > 0 && fault.Of(err) == fault.Command && ctx.Err() == nil; left-- {
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
				r, err = s.query(ctx, st.Query)
			}
		}
		if err != nil && st.Until && ctx.Err() != nil {
			return r, fault.New(fault.Command, "until: its first column did not become true in time: %w", context.Cause(ctx))
		}
		if err != nil || !st.Until || r.truth() {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, fault.New(fault.Command, "until: its first column did not become true in time, the last was %v: %w", r.first(), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// short is what an error shows of a value: redacted before it is cut.
func (s statement) short(text string) string {
	if s.redact != nil {
		text = s.redact(text)
	}
	if len(text) > 200 {
		return text[:200] + "..."
	}
	return text
}

func (r result) first() any {
	if len(r.last) == 0 {
		return nil
	}
	return r.last[0]
}

func (r result) truth() bool {
	switch v := r.first().(type) {
	case bool:
		return v
	case int64:
		return v != 0
	case string:
		switch strings.ToLower(v) {
		case "1", "t", "true", "y", "yes", "on":
			return true
		}
	}
	return false
}

// maxValue bounds an output: outputs live in workflow history.
const maxValue = 256 << 10

func (r result) column(name string) (any, error) {
	if r.rows == 0 {
		return nil, fault.New(fault.Command, "the statement returned no row")
	}
	i := slices.IndexFunc(r.columns, func(c string) bool { return strings.EqualFold(c, name) })
	if i < 0 {
		return nil, fault.New(fault.User, "no column %q; it has: %s", name, strings.Join(r.columns, ", "))
	}
	switch v := r.last[i].(type) {
	case nil:
		return "", nil // outputs have no NULL
	case string:
		if len(v) > maxValue {
			return nil, fault.New(fault.Command, "column %q has %d bytes, an output at most %d", name, len(v), maxValue)
		}
		return v, nil
	default:
		return v, nil
	}
}
