// Package kando reads the outputs that a command prints among its other
// output, in the protocol of Kanister's `kando output`: a line
//
//	###Phase-output###: {"key":"name","value":"text"}
//
// It is pure: bytes in, outputs out. Start with Parser.
package kando

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"

	"thaw/blueprints/plan"
)

// Marker starts an output, anywhere in a line: loggers write before it.
const Marker = "###Phase-output###:"

// MaxBytes is the default bound of all outputs of a command. Outputs live in
// workflow history, which takes 2 MiB a payload.
const MaxBytes = 512 << 10

// ErrTooLarge says that the outputs are over the bound.
var ErrTooLarge = errors.New("the outputs are too large")

var keys = regexp.MustCompile(`^[a-zA-Z0-9_]+$`)

// Parser is an io.Writer for a command's standard output. It keeps only what
// belongs to an output, however long the lines between are and wherever the
// stream is cut into pieces. The zero value is ready.
type Parser struct {
	// Max bounds the bytes of all outputs together; 0 is MaxBytes.
	Max int
	// Line, where not nil, gets each line that is no output, without its end.
	// Lines are cut at MaxLine.
	Line func(line []byte)

	outputs map[string]any
	line    []byte // what is kept of the current line
	inside  bool   // the line has a marker: line holds what follows it
	total   int
	err     error
}

// MaxLine is what is kept of a line that is no output.
const MaxLine = 4 << 10

// Write implements io.Writer. Its errors are the protocol's, and come again
// from Close: a command should not be stopped by them.
func (p *Parser) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 && p.err == nil {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			p.take(b)
			break
		}
		p.take(b[:end])
		p.endLine()
		b = b[end+1:]
	}
	return n, nil
}

func (p *Parser) take(b []byte) {
	if p.inside {
		p.grow(b)
		return
	}
	// The marker may be split over pieces: join with what could be its start.
	p.line = append(p.line, b...)
	if i := bytes.Index(p.line, []byte(Marker)); i >= 0 {
		rest := p.line[i+len(Marker):]
		p.line, p.inside = nil, true
		p.grow(rest)
		return
	}
	if over := len(p.line) - MaxLine - len(Marker); over > 0 {
		p.line = append(p.line[:0], p.line[over:]...)
	}
}

func (p *Parser) grow(b []byte) {
	limit := p.Max
	if limit == 0 {
		limit = MaxBytes
	}
	if p.total+len(p.line)+len(b) > limit {
		p.err = fmt.Errorf("%w: more than %d bytes; print a reference (a path, an id) instead of the content", ErrTooLarge, limit)
		p.line = nil
		return
	}
	p.line = append(p.line, b...)
}

func (p *Parser) endLine() {
	line, inside := p.line, p.inside
	p.line, p.inside = p.line[:0], false
	if p.err != nil {
		return
	}
	if !inside {
		if p.Line != nil && len(line) > 0 {
			p.Line(bytes.TrimSuffix(line, []byte("\r")))
		}
		return
	}
	var o struct {
		Key   *string         `json:"key"`
		Value json.RawMessage `json:"value"`
	}
	dec := json.NewDecoder(bytes.NewReader(line))
	if err := dec.Decode(&o); err != nil {
		p.err = fmt.Errorf("an output is no JSON: %w; after %s comes {\"key\":...,\"value\":...} on the same line", err, Marker)
		return
	}
	if dec.More() || o.Key == nil {
		p.err = fmt.Errorf("an output is not {\"key\":...,\"value\":...} alone on its line")
		return
	}
	if !keys.MatchString(*o.Key) {
		p.err = fmt.Errorf("the output key %q has other characters than letters, digits and _", *o.Key)
		return
	}
	v, err := decode(o.Value)
	if err != nil {
		p.err = fmt.Errorf("the value of output %q: %w", *o.Key, err)
		return
	}
	p.total += len(line)
	if p.outputs == nil {
		p.outputs = map[string]any{}
	}
	p.outputs[*o.Key] = v
}

// decode keeps integers exact; a missing value is the empty string.
func decode(raw json.RawMessage) (any, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	return plan.Exact(v), nil
}

// Seed gives the parser outputs that were read before, by another reader of the
// same command. What it reads itself wins.
func (p *Parser) Seed(outputs map[string]any) {
	for k, v := range outputs {
		if p.outputs == nil {
			p.outputs = map[string]any{}
		}
		p.outputs[k] = v
	}
}

// Outputs returns a copy of those read so far.
func (p *Parser) Outputs() map[string]any { return maps.Clone(p.outputs) }

// Close ends the last line and returns the outputs.
func (p *Parser) Close() (map[string]any, error) {
	if len(p.line) > 0 || p.inside {
		p.endLine()
	}
	if p.err != nil {
		return nil, p.err
	}
	if p.outputs == nil {
		p.outputs = map[string]any{}
	}
	return p.outputs, nil
}

// Print writes an output, as the command `kando output` does: in one write,
// since a reader of a log may see the pieces of several. Errors: a key that is
// none.
func Print(w io.Writer, key, value string) error {
	if !keys.MatchString(key) {
		return fmt.Errorf("output key %q: want letters, digits and underscores", key)
	}
	// The struct, not a map, for the order of the fields.
	line, err := json.Marshal(struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}{key, value})
	if err != nil {
		return fmt.Errorf("output %s: %w", key, err)
	}
	_, err = fmt.Fprintf(w, "%s %s\n", Marker, line)
	return err
}
