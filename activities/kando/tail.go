package kando

import (
	"bytes"
	"strings"
)

// Tail keeps the end of what a command printed: more than it shows, so that a
// secret which its beginning cuts in half is not in what it shows.
type Tail struct {
	Redact func(string) string // may be nil
	buf    bytes.Buffer
}

const (
	keepOutput = 64 << 10
	showOutput = 4 << 10
	showLines  = 10
)

// Write implements io.Writer.
func (l *Tail) Write(b []byte) (int, error) {
	n := len(b)
	l.buf.Write(b)
	if over := l.buf.Len() - keepOutput; over > 0 {
		l.buf.Next(over)
	}
	return n, nil
}

// String returns the last lines, in one.
func (l *Tail) String() string {
	text := l.buf.String()
	if l.Redact != nil {
		text = l.Redact(text)
	}
	text = text[max(0, len(text)-showOutput):]
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-showLines):], " | ")
}
