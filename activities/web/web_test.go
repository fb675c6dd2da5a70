package web

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/activities/secret"
	"thaw/blueprints/fault"
)

const (
	bearer  = "Bearer s3cr3t-of-the-hook"
	signing = "key-that-signs"
)

func newEnv() *function.Env {
	redact := secret.NewRedactor()
	redact.Learn([]byte(bearer))
	return &function.Env{
		Key: "thaw-0123456789", Phase: "notify", Log: slog.New(slog.DiscardHandler), Redact: redact.Text,
		Secrets: functiontest.Secrets{"hook": {"auth": []byte(bearer), "sign": []byte(signing), "broken": []byte("a\nb")}},
	}
}

func call(ctx context.Context, env *function.Env, args map[string]any) (function.Outputs, error) {
	act, _, err := Functions()[0].Bind(ctx, env, args)
	if err != nil {
		return nil, err
	}
	return act(ctx)
}

// receiver is a server that keeps what it got.
type receiver struct {
	*httptest.Server
	mu  sync.Mutex
	got []seen
}

type seen struct {
	method, path, body string
	header             http.Header
}

func newReceiver(t *testing.T, answer http.HandlerFunc) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(r.keep(answer))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) keep(answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		b, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		r.got = append(r.got, seen{q.Method, q.URL.Path, string(b), q.Header})
		r.mu.Unlock()
		answer(w, q)
	}
}

func (r *receiver) requests() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]seen(nil), r.got...)
}

func ok(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

func TestWhatIsSent(t *testing.T) {
	tests := []struct {
		name   string
		args   map[string]any
		method string
		body   string
		header map[string]string
	}{
		{name: "a POST without a body, by default", args: map[string]any{}, method: "POST", header: map[string]string{"User-Agent": "thaw", "Idempotency-Key": "thaw-0123456789", "Content-Type": ""}},
		{name: "a body as it is", args: map[string]any{"method": "put", "body": "a=1&b", "headers": map[string]any{"content-type": "text/x"}}, method: "PUT", body: "a=1&b", header: map[string]string{"Content-Type": "text/x"}},
		{name: "data as JSON", args: map[string]any{"json": map[string]any{"n": int64(12345678901), "s": "<a&b>", "l": []any{true}}}, method: "POST",
			body: `{"l":[true],"n":12345678901,"s":"<a&b>"}`, header: map[string]string{"Content-Type": "application/json"}},
		{name: "JSON of another type", args: map[string]any{"json": []any{"x"}, "headers": map[string]any{"Content-Type": "application/vnd.x+json"}}, method: "POST", body: `["x"]`, header: map[string]string{"Content-Type": "application/vnd.x+json"}},
		{name: "a secret header", args: map[string]any{"method": "GET", "secretHeaders": map[string]any{"Authorization": "hook/auth"}}, method: "GET", header: map[string]string{"Authorization": bearer}},
		{name: "no signature that was not asked", args: map[string]any{"body": "x"}, method: "POST", body: "x", header: map[string]string{headerSignature: ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReceiver(t, ok)
			tt.args["url"] = r.URL + "/hooks/1"
			out, err := call(t.Context(), newEnv(), tt.args)
			require.NoError(t, err)
			assert.Equal(t, function.Outputs{"status": int64(204)}, out)
			require.Len(t, r.requests(), 1)
			got := r.requests()[0]
			assert.Equal(t, []string{tt.method, "/hooks/1", tt.body}, []string{got.method, got.path, got.body})
			for k, v := range tt.header {
				assert.Equal(t, v, got.header.Get(k), k)
			}
		})
	}
}

// The steps that signature.go tells receivers, done as a receiver would.
func TestSignature(t *testing.T) {
	r := newReceiver(t, ok)
	before := time.Now().Unix()
	_, err := call(t.Context(), newEnv(), map[string]any{"url": r.URL, "json": map[string]any{"state": "done"}, "signingSecret": "hook/sign"})
	require.NoError(t, err)
	got := r.requests()[0]
	at, sum, found := strings.Cut(strings.TrimPrefix(got.header.Get("X-Thaw-Signature"), "t="), ",sha256=")
	require.True(t, found)
	unix, err := strconv.ParseInt(at, 10, 64)
	require.NoError(t, err)
	assert.InDelta(t, before, unix, 60)
	mac := hmac.New(sha256.New, []byte(signing))
	mac.Write([]byte(at + "." + got.body))
	assert.Equal(t, hex.EncodeToString(mac.Sum(nil)), sum)
}

func TestAttemptsHaveOneKey(t *testing.T) {
	answers := []int{503, 500, 200}
	var mu sync.Mutex
	r := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(answers[0])
		answers = answers[1:]
	})
	env := newEnv()
	var kinds []fault.Kind
	for range 3 {
		if _, err := call(t.Context(), env, map[string]any{"url": r.URL, "body": "x"}); err != nil {
			kinds = append(kinds, fault.Of(err))
		}
	}
	assert.Equal(t, []fault.Kind{fault.Transient, fault.Transient}, kinds)
	keys := map[string]bool{}
	for _, q := range r.requests() {
		keys[q.header.Get("Idempotency-Key")] = true
	}
	assert.Equal(t, map[string]bool{env.Key: true}, keys)
	require.Len(t, r.requests(), 3, "and net/http sent none by itself")
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("x", 2*maxQuoted)
	tests := []struct {
		name   string
		answer http.HandlerFunc
		args   map[string]any
		out    function.Outputs
		kind   fault.Kind
		says   []string
		later  time.Duration
	}{
		{name: "a status that is expected", answer: status(404, ""), args: map[string]any{"expectedStatus": []any{"2xx", 404}}, out: function.Outputs{"status": int64(404)}},
		{name: "another success than expected", answer: status(200, ""), args: map[string]any{"expectedStatus": "201"}, kind: fault.Command, says: []string{"status 200, expected 201"}},
		{name: "a refusal, in its words", answer: status(422, "no such\n  channel"), kind: fault.Command, says: []string{"POST http://127.0.0.1", "status 422, expected 2xx: no such channel"}},
		{name: "a long refusal is cut", answer: status(400, long), kind: fault.Command, says: []string{long[:maxQuoted] + "..."}},
		{name: "a server's own failure", answer: status(500, "oops"), kind: fault.Transient, says: []string{"oops"}},
		{name: "not implemented is no passing failure", answer: status(501, ""), kind: fault.Command},
		{name: "come again in seconds", answer: status(429, "", "Retry-After", "7"), kind: fault.Transient, later: 7 * time.Second},
		{name: "come again, but not in a year", answer: status(503, "", "Retry-After", "31536000"), kind: fault.Transient, later: time.Hour},
		{name: "come again at a date", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", time.Now().Add(30*time.Minute).UTC().Format(http.TimeFormat))
			w.WriteHeader(503)
		}, kind: fault.Transient, later: 30 * time.Minute},
		{name: "come again at a date that is over", answer: status(503, "", "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT"), kind: fault.Transient},
		{name: "nonsense for a time", answer: status(503, "", "Retry-After", "soon"), kind: fault.Transient},
		{name: "outputs", answer: status(200, `{"id":9007199254740993,"data":{"items":[{"id":"a"},{"id":"b","tags":["x",1.5]}]},"none":null}`),
			args: map[string]any{"into": map[string]any{"id": "id", "second": "data.items.1", "none": "none"}},
			out:  function.Outputs{"status": int64(200), "id": int64(9007199254740993), "second": map[string]any{"id": "b", "tags": []any{"x", 1.5}}, "none": ""}},
		{name: "no such output", answer: status(200, `{"data":{"items":[]}}`), args: map[string]any{"into": map[string]any{"id": "data.items.0.id"}}, kind: fault.Command,
			says: []string{"its answer has no data.items.0.id", "data.items is a list of 0"}},
		{name: "a path through a text", answer: status(200, `{"data":"x"}`), args: map[string]any{"into": map[string]any{"id": "data.id"}}, kind: fault.Command, says: []string{"data is neither an object nor a list"}},
		{name: "an answer that is no JSON", answer: status(200, "<html>"), args: map[string]any{"into": map[string]any{"id": "id"}}, kind: fault.Command, says: []string{"no JSON"}},
		{name: "two answers", answer: status(200, `{"id":1}{"id":2}`), args: map[string]any{"into": map[string]any{"id": "id"}}, kind: fault.Command, says: []string{"more than one"}},
		{name: "an answer that is too long", answer: status(200, `"`+strings.Repeat("x", maxAnswer)+`"`), args: map[string]any{"into": map[string]any{"id": "id"}}, kind: fault.Command, says: []string{"over 1048576 bytes"}},
		{name: "an output that is too long", answer: status(200, `{"id":"`+strings.Repeat("x", maxValue)+`"}`), args: map[string]any{"into": map[string]any{"id": "id"}}, kind: fault.Command, says: []string{`output "id" has`}},
		{name: "an answer cut off that is to be read", answer: cutOff, args: map[string]any{"into": map[string]any{"id": "id"}}, kind: fault.Unknown, says: []string{"cut off"}},
		{name: "an answer cut off whose status is enough", answer: cutOff, out: function.Outputs{"status": int64(200)}},
		{name: "a refusal cut off", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "you may not")
		}, kind: fault.Command, says: []string{"status 403", "you may not"}},
		{name: "a connection that is closed without an answer", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, kind: fault.Unknown, says: []string{"may have been received"}},
		{name: "no answer in time", answer: func(_ http.ResponseWriter, q *http.Request) { <-q.Context().Done() }, args: map[string]any{"timeout": "150ms"}, kind: fault.Unknown, says: []string{"no answer within 150ms"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newReceiver(t, tt.answer)
			args := map[string]any{"url": r.URL + "/secret-path?token=secret-query", "body": "x"}
			for k, v := range tt.args {
				args[k] = v
			}
			out, err := call(t.Context(), newEnv(), args)
			if tt.kind == "" {
				require.NoError(t, err)
				assert.Equal(t, tt.out, out)
				return
			}
			require.Error(t, err)
			assert.Equal(t, tt.kind, fault.Of(err), err)
			for _, s := range tt.says {
				assert.ErrorContains(t, err, s)
			}
			assert.NotContains(t, err.Error(), "secret-")
			assert.Less(t, len(err.Error()), maxQuoted+200)
			var later interface{ RetryAfter() time.Duration }
			if errors.As(err, &later) != (tt.later > 0) {
				t.Fatalf("RetryAfter: want %s, error is %v", tt.later, err)
			}
			if tt.later > 0 {
				assert.InDelta(t, tt.later, later.RetryAfter(), float64(time.Minute))
			}
		})
	}
}

func status(code int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func cutOff(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	w.WriteHeader(200)
	_, _ = io.WriteString(w, `{"id":`)
}

// A server that echoes what it got, as many do in their errors: the secret is
// gone before the answer is cut, so that no half of it stays.
func TestEchoedSecrets(t *testing.T) {
	for _, before := range []int{0, maxQuoted - 30, maxQuoted - 10, maxQuoted - 1} {
		t.Run(fmt.Sprintf("%d bytes before", before), func(t *testing.T) {
			r := newReceiver(t, func(w http.ResponseWriter, q *http.Request) {
				w.WriteHeader(401)
				_, _ = io.WriteString(w, strings.Repeat("-", before)+q.Header.Get("Authorization")+" is wrong")
			})
			_, err := call(t.Context(), newEnv(), map[string]any{"url": r.URL, "secretHeaders": map[string]any{"Authorization": "hook/auth"}})
			require.Error(t, err)
			assert.NotContains(t, err.Error(), bearer[:4])
		})
	}
}

func TestNothingWasSent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := l.Addr().String()
	require.NoError(t, l.Close())
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and never speaks TLS
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	for name, url := range map[string]string{
		"nobody listens": "http://" + closed, "no such host": "http://nowhere.invalid", "no end of the handshake": "https://" + silent.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := call(t.Context(), newEnv(), map[string]any{"url": url, "timeout": "2s"})
			require.ErrorContains(t, err, "nothing was sent")
			assert.Equal(t, fault.Transient, fault.Of(err), err)
		})
	}
}

func TestTLS(t *testing.T) {
	r := &receiver{}
	r.Server = httptest.NewTLSServer(r.keep(ok))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(r.Close)
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
	tests := []struct {
		name string
		args map[string]any
		err  string
	}{
		{name: "an authority of one's own", args: map[string]any{"caBundle": "ca/bundle"}},
		{name: "an unknown authority", args: map[string]any{}, err: "give its authority as caBundle"},
		{name: "an authority of another name", args: map[string]any{"caBundle": "ca/bundle", "url": strings.Replace(r.URL, "127.0.0.1", "localhost", 1)}, err: "not trusted"},
		{name: "no certificate", args: map[string]any{"caBundle": "hook/auth"}, err: "holds no certificate"},
		{name: "no TLS", args: map[string]any{"caBundle": "ca/bundle", "url": "http://" + r.Listener.Addr().String()}, err: "url is http"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			env := newEnv()
			env.Secrets.(functiontest.Secrets)["ca"] = map[string][]byte{"bundle": bundle}
			if tt.args["url"] == nil {
				tt.args["url"] = r.URL
			}
			_, err := call(t.Context(), env, tt.args)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.err)
			assert.Equal(t, fault.User, fault.Of(err))
		})
	}
	assert.Len(t, r.requests(), 1)
}
