package blueprints

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// locate returns the line and column of a byte of the text at path. YAML
// forgets how a scalar was written, so the place is found again in the file:
// exactly in literal blocks and in what stands on one line, else by looking
// for the same text further down.
func (s *source) locate(path string, key bool, offset int) (line, col int) {
	if s == nil {
		return 0, 0
	}
	n := s.values[path]
	if key {
		n = s.keys[path]
	}
	if n == nil {
		return s.position(path)
	}
	if n.Kind != yaml.ScalarNode || offset < 0 || offset > len(n.Value) {
		return n.Line, n.Column
	}
	if n.Style&yaml.LiteralStyle != 0 {
		return s.inLiteral(n, offset)
	}
	// Take up to the end of the line from the offset, as it would be written.
	rest, _, _ := strings.Cut(n.Value[offset:], "\n")
	if len(rest) > 24 {
		rest = rest[:24]
	}
	if rest == "" {
		return n.Line, n.Column
	}
	nth := strings.Count(n.Value[:min(offset+len(rest)-1, len(n.Value))], rest)
	escaped := rest
	switch n.Style {
	case yaml.SingleQuotedStyle:
		escaped = strings.ReplaceAll(rest, "'", "''")
	case yaml.DoubleQuotedStyle:
		escaped = strings.ReplaceAll(strings.ReplaceAll(rest, `\`, `\\`), `"`, `\"`)
	}
	for l := n.Line; l <= len(s.lines) && l < n.Line+200; l++ {
		text, from := s.lines[l-1], 0
		if l == n.Line {
			from = min(byteOffset(text, n.Column), len(text))
		}
		for {
			at := strings.Index(text[from:], escaped)
			if at < 0 {
				break
			}
			if nth == 0 {
				return l, column(text, from+at)
			}
			nth--
			from += at + len(escaped)
		}
	}
	return n.Line, n.Column
}

// inLiteral is the place in a literal block: its text starts on the line
// after the indicator, indented alike on every line.
func (s *source) inLiteral(n *yaml.Node, offset int) (line, col int) {
	before := n.Value[:offset]
	down := strings.Count(before, "\n")
	in := offset - (strings.LastIndex(before, "\n") + 1)
	line = n.Line + 1 + down
	if line > len(s.lines) {
		return n.Line, n.Column
	}
	// The line of the file ends as the line of the text does; what it has
	// more is indentation.
	own := n.Value[offset-in:]
	own, _, _ = strings.Cut(own, "\n")
	text := strings.TrimSuffix(s.lines[line-1], "\r")
	lead := max(len(text)-len(own), 0)
	return line, column(text, min(lead+in, len(text)))
}

// column is the column, from 1, of a byte of a line.
func column(line string, at int) int { return utf8.RuneCountInString(line[:at]) + 1 }

// byteOffset is where a column, from 1, starts.
func byteOffset(line string, col int) int {
	at := 0
	for ; col > 1 && at < len(line); col-- {
		_, n := utf8.DecodeRuneInString(line[at:])
		at += n
	}
	return at
}
