package web

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/plan"
)

// laterError is a refusal that says when to come again.
type laterError struct {
	error
	after time.Duration
}

func (e *laterError) Unwrap() error { return e.error }

// RetryAfter is how long the receiver wants to be left alone.
func (e *laterError) RetryAfter() time.Duration { return e.after }

// maxRetryAfter bounds what a receiver can ask: a run does not hang on it.
const maxRetryAfter = time.Hour

// retryAfter reads the header, in seconds or as a date; 0 where there is none.
func retryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if n, err := strconv.ParseUint(header, 10, 64); err == nil {
		return time.Duration(min(n, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	at, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// maxValue bounds an output: outputs live in workflow history.
const maxValue = 256 << 10

func parsePaths(into map[string]string) (map[string][]string, error) {
	paths := make(map[string][]string, len(into))
	for output, path := range into {
		parts := strings.Split(path, ".")
		switch {
		case output == "status":
			return nil, errors.New("into: output \"status\" is the function's own; choose another name")
		case path == "" || slices.Contains(parts, ""):
			return nil, fmt.Errorf("into: output %q: path %q: write names and indexes with dots between, such as data.items.0.id", output, path)
		}
		paths[output] = parts
	}
	return paths, nil
}

// read takes the outputs out of a JSON answer. Integers stay exact.
func (r *request) read(body []byte, out function.Outputs) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return fmt.Errorf("its answer is no JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("its answer is more than one JSON document")
	}
	for _, output := range slices.Sorted(maps.Keys(r.into)) {
		v, err := at(doc, r.into[output])
		if err != nil {
			return fmt.Errorf("its answer has no %s: %w", strings.Join(r.into[output], "."), err)
		}
		if b, err := json.Marshal(v); err != nil || len(b) > maxValue {
			return fmt.Errorf("output %q has %d bytes, an output at most %d", output, len(b), maxValue)
		}
		out[output] = v
	}
	return nil
}

// at follows a path.
func at(v any, path []string) (any, error) {
	for i, step := range path {
		where := strings.Join(path[:i], ".")
		if where == "" {
			where = "it"
		}
		switch t := v.(type) {
		case map[string]any:
			next, ok := t[step]
			if !ok {
				return nil, fmt.Errorf("%s has no %q", where, step)
			}
			v = next
		case []any:
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(t) {
				return nil, fmt.Errorf("%s is a list of %d, and %q no index of it", where, len(t), step)
			}
			v = t[n]
		default:
			return nil, fmt.Errorf("%s is neither an object nor a list", where)
		}
	}
	return plain(v), nil
}

// plain has integers as int64; null is the empty string, as outputs have none.
func plain(v any) any {
	switch t := plan.Exact(v).(type) {
	case nil:
		return ""
	case map[string]any:
		for k, e := range t {
			t[k] = plain(e)
		}
		return t
	case []any:
		for i, e := range t {
			t[i] = plain(e)
		}
		return t
	default:
		return t
	}
}
