package blueprints

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a file. Kubernetes holds no object larger than 1.5 MiB.
const (
	MaxFile  = 1536 << 10
	maxNodes = 100_000 // what aliases stand for counted each time
	maxDepth = 100
)

// Parse reads a file that holds one blueprint. The blueprint is nil where the
// text is no YAML mapping at all; else it has what could be read, for Lint to
// go on with. File is the name for the faults only.
func Parse(file string, text []byte) (*Blueprint, Faults) {
	bps, faults := ParseAll(file, text)
	if len(bps) > 1 {
		for _, b := range bps[1:] {
			line, col := b.Position("")
			faults = append(faults, Fault{File: file, Line: line, Column: col, Severity: Error, Code: "several-documents",
				Message: "the file holds more than one document; put each blueprint into a file of its own"})
		}
		faults = faults.Sort()
	}
	if len(bps) == 0 {
		return nil, faults
	}
	return bps[0], faults
}

// ParseAll reads a file of one or more documents, each a blueprint.
func ParseAll(file string, text []byte) ([]*Blueprint, Faults) {
	one := func(line, col int, code, format string, args ...any) Faults {
		return Faults{{File: file, Line: line, Column: col, Severity: Error, Code: code, Message: fmt.Sprintf(format, args...)}}
	}
	if len(text) > MaxFile {
		return nil, one(1, 1, "too-large", "the file has %d bytes; at most %d are allowed, as in Kubernetes", len(text), MaxFile)
	}
	if line, col, ok := notUTF8(text); ok {
		return nil, one(line, col, "not-utf8", "the file is not UTF-8 here; save it as UTF-8")
	}
	docs, err := documents(text)
	lines := strings.Split(string(text), "\n")
	var faults Faults
	if err != nil {
		line, msg := syntaxError(err, text, lines)
		faults = one(line, 1+indent(lines, line), "syntax", "%s", msg)
	} else if len(docs) == 0 {
		faults = one(1, 1, "empty-file", "the file holds no blueprint; see `thaw blueprint show sqlite` for one to start from")
	}
	var bps []*Blueprint
	for i, doc := range docs {
		body := text
		if len(docs) > 1 {
			from, to := doc.Line, len(lines)+1
			if i > 0 {
				from = max(from, docs[i-1].Line+1)
			} else {
				from = 1
			}
			if i+1 < len(docs) {
				to = docs[i+1].Line
			}
			body = []byte(strings.Join(lines[from-1:to-1], "\n"))
		}
		d := &decoder{file: file, src: &source{lines: lines, values: map[string]*yaml.Node{}, keys: map[string]*yaml.Node{}}}
		b := d.blueprint(doc)
		faults = append(faults, d.faults...)
		if b == nil {
			continue
		}
		sum := sha256.Sum256(body)
		b.File, b.Text, b.Digest, b.source = file, body, "sha256:"+hex.EncodeToString(sum[:]), d.src
		bps = append(bps, b)
	}
	return bps, faults.Sort()
}

// documents splits the text into its YAML documents, empty ones left out.
func documents(text []byte) (docs []*yaml.Node, err error) {
	defer func() {
		if r := recover(); r != nil { // the parser's own; fuzzing is for finding these
			err = fmt.Errorf("yaml: %v", r)
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return docs, err
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) == 0 {
			continue
		}
		if c := n.Content[0]; c.Kind != yaml.ScalarNode || c.Tag != "!!null" {
			docs = append(docs, c)
		}
	}
}

var (
	bareTemplate   = regexp.MustCompile(`(:|-)\s+\{\{`)
	yamlAnyPrefix  = regexp.MustCompile(`^yaml: (?:line \d+: )?`)
	yamlParsePlace = regexp.MustCompile(` (?:in|at) line \d+, column \d+`)
)

// syntaxError turns the YAML parser's message into one that says what to do.
func syntaxError(err error, whole []byte, lines []string) (int, string) {
	msg := yamlAnyPrefix.ReplaceAllString(err.Error(), "")
	msg = yamlParsePlace.ReplaceAllString(msg, "")
	line := firstBad(whole, lines, err)
	// The parser notices a line or so late.
	for _, l := range []int{line, line - 1, line + 1} {
		if l < 1 || l > len(lines) {
			continue
		}
		text := lines[l-1]
		lead := text[:len(text)-len(strings.TrimLeft(text, " \t"))]
		switch {
		case strings.Contains(lead, "\t"):
			return l, "this is not YAML: the line is indented with a tab; use spaces"
		case bareTemplate.MatchString(text):
			return l, "this is not YAML: a value that starts with {{ must be quoted: '{{ … }}'"
		}
	}
	return line, "this is not YAML: " + msg
}

// firstBad is the last line of the shortest beginning of the text that fails
// as the whole does. The parser gives the line where what it was reading
// began, which can be far above the mistake.
func firstBad(text []byte, lines []string, whole error) int {
	ends := make([]int, len(lines))
	at := -1
	for i, l := range lines {
		at += len(l) + 1
		ends[i] = min(at, len(text))
	}
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		_, err := documents(text[:ends[i]])
		return err != nil && err.Error() == whole.Error()
	})
}

func indent(lines []string, line int) int {
	if line < 1 || line > len(lines) {
		return 0
	}
	l := lines[line-1]
	return len(l) - len(strings.TrimLeft(l, " \t"))
}

func notUTF8(text []byte) (line, col int, found bool) {
	if utf8.Valid(text) {
		return 0, 0, false
	}
	line, col = 1, 1
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			return line, col, true
		}
		if r == '\n' {
			line, col = line+1, 0
		}
		col++
		text = text[n:]
	}
	return line, col, true
}

// position returns where the value of that path, or of the nearest around it,
// stands.
func (s *source) position(path string) (int, int) {
	if s == nil {
		return 0, 0
	}
	for {
		if n, ok := s.values[path]; ok {
			return n.Line, n.Column
		}
		if path == "" {
			return 1, 1
		}
		path = parentPath(path)
	}
}

// keyPosition is the same for the key of a mapping entry.
func (s *source) keyPosition(path string) (int, int) {
	if s != nil {
		if n, ok := s.keys[path]; ok {
			return n.Line, n.Column
		}
	}
	return s.position(path)
}

func parentPath(path string) string {
	if strings.HasSuffix(path, `"]`) {
		if i := strings.LastIndex(path, `["`); i >= 0 {
			return path[:i]
		}
	}
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]*$`)

// join names a child of path.
func join(path, key string) string {
	switch {
	case !plainKey.MatchString(key):
		return path + "[" + strconv.Quote(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

func item(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
