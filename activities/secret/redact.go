package secret

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"reflect"
	"sort"
	"strings"
	"sync"
)

// Mask stands where a secret was.
const Mask = "********"

// minLength of what is redacted: shorter values ("a", "1") would mask half of
// every text, and are no secrets.
const minLength = 4

// Redactor takes every secret that the worker has read out of what it says:
// errors, outputs, logs. It knows a value as it is, and as it is usually
// spelt inside other texts: base64, hex, URL and JSON. Of what looks random it
// knows pieces too, since a text may be cut or wrapped in the midst of a
// secret, and may quote a token without the words before it.
type Redactor struct {
	mu     sync.RWMutex
	known  map[string]bool
	sorted []string // longest first: a secret may hold another
	pieces map[[pieceLength]byte]struct{}
}

// NewRedactor returns a redactor that knows nothing yet.
func NewRedactor() *Redactor {
	return &Redactor{known: map[string]bool{}, pieces: map[[pieceLength]byte]struct{}{}}
}

// Learn adds a secret, and each of its lines (keys and certificates are cited
// by line).
func (r *Redactor) Learn(secret []byte) {
	text := string(secret)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[text] {
		return
	}
	for _, s := range append(strings.Split(text, "\n"), text) {
		s = strings.TrimSpace(s)
		if len(s) < minLength {
			continue
		}
		quoted, _ := json.Marshal(s) // a string always marshals
		inHex := hex.EncodeToString([]byte(s))
		encoded := append(inBase64(s), inHex, strings.ToUpper(inHex))
		for _, form := range append(encoded, s, url.QueryEscape(s), url.PathEscape(s), strings.Trim(string(quoted), `"`)) {
			r.known[form] = true
		}
		if len(text) <= maxInPieces {
			r.learnPieces(append(encoded, random(s)...))
		}
	}
	r.known[text] = true
	r.sorted = r.sorted[:0]
	for s := range r.known {
		if len(s) >= minLength {
			r.sorted = append(r.sorted, s)
		}
	}
	sort.Slice(r.sorted, func(i, j int) bool {
		if len(r.sorted[i]) != len(r.sorted[j]) {
			return len(r.sorted[i]) > len(r.sorted[j])
		}
		return r.sorted[i] < r.sorted[j]
	})
}

// inBase64 returns what stands in any base64 text that has the secret in it,
// such as a basic authorization's: the characters that its bytes alone make,
// for each of the three places where it may begin.
func inBase64(s string) []string {
	var forms []string
	for before := range 3 {
		text := append(make([]byte, before), s...)
		from, to := (before*8+5)/6, len(text)*8/6
		if to-from < minLength {
			continue
		}
		forms = append(forms, base64.StdEncoding.EncodeToString(text)[from:to], base64.URLEncoding.EncodeToString(text)[from:to])
	}
	return forms
}

// Text returns s without secrets.
func (r *Redactor) Text(s string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range r.sorted {
		s = strings.ReplaceAll(s, k, Mask)
	}
	return r.withoutPieces(s)
}

// Value returns v without secrets, in strings, lists and maps.
func (r *Redactor) Value(v any) any {
	switch t := v.(type) {
	case string:
		return r.Text(t)
	case []byte:
		return []byte(r.Text(string(t)))
	case []string:
		out := make([]string, len(t))
		for i, e := range t {
			out[i] = r.Text(e)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = r.Value(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[r.Text(k)] = r.Value(e)
		}
		return out
	case map[string]string:
		out := make(map[string]string, len(t))
		for k, e := range t {
			out[r.Text(k)] = r.Text(e)
		}
		return out
	case error:
		return r.Text(t.Error())
	}
	switch k := reflect.ValueOf(v).Kind(); {
	case k == reflect.Invalid || k == reflect.Bool:
		return v
	case k <= reflect.Complex128:
		if r.is(fmt.Sprint(v)) {
			return Mask // a PIN, say
		}
		return v
	}
	// Whatever else it is, it is JSON in the end.
	b, err := json.Marshal(v)
	var plain any
	if err == nil {
		err = json.Unmarshal(b, &plain)
	}
	if err != nil {
		return Mask
	}
	return r.Value(plain)
}

// is reports whether a text is a secret, whole.
func (r *Redactor) is(s string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(s) >= minLength && r.known[s]
}

// Handler wraps a log handler so that nothing secret is logged.
func (r *Redactor) Handler(h slog.Handler) slog.Handler { return &handler{h, r} }

type handler struct {
	slog.Handler
	r *Redactor
}

func (h *handler) Handle(ctx context.Context, rec slog.Record) error {
	clean := slog.NewRecord(rec.Time, rec.Level, h.r.Text(rec.Message), rec.PC)
	rec.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(h.attr(a))
		return true
	})
	return h.Handler.Handle(ctx, clean)
}

func (h *handler) attr(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	switch v.Kind() {
	case slog.KindString:
		return slog.String(a.Key, h.r.Text(v.String()))
	case slog.KindGroup:
		group := make([]slog.Attr, 0, len(v.Group()))
		for _, g := range v.Group() {
			group = append(group, h.attr(g))
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(group...)}
	case slog.KindAny:
		// Whatever it is, it is printed: print it here, where it is redacted.
		return slog.String(a.Key, h.r.Text(slogText(v.Any())))
	default:
		return a
	}
}

func slogText(v any) string {
	if err, ok := v.(error); ok {
		return err.Error()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return slog.AnyValue(v).String()
	}
	return strings.Trim(string(b), `"`)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		clean[i] = h.attr(a)
	}
	return &handler{h.Handler.WithAttrs(clean), h.r}
}

func (h *handler) WithGroup(n string) slog.Handler { return &handler{h.Handler.WithGroup(n), h.r} }
