package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
)

func redirectTo(code int, to func() string) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		if strings.HasPrefix(q.URL.Path, "/there") {
			ok(w, q)
			return
		}
		w.Header().Set("Location", to())
		w.WriteHeader(code)
	}
}

// What a redirect takes along. Another port is another host here, as it is to
// whoever runs two programs on one machine.
func TestRedirects(t *testing.T) {
	tests := []struct {
		name      string
		code      int
		method    string
		body      string
		elsewhere bool
		err       string
		// secrets: the last request carried the headers that were given.
		secrets, signature bool
		gets               string
	}{
		{name: "a body stays on its host", code: 307, method: "POST", body: "x", secrets: true, signature: true, gets: "POST"},
		{name: "a body goes to no other host", code: 308, method: "POST", body: "x", elsewhere: true, err: "a redirect of the body to another host"},
		{name: "a POST becomes no GET", code: 302, method: "POST", body: "x", err: "drops what is sent"},
		{name: "nor a DELETE", code: 301, method: "DELETE", err: "drops what is sent"},
		{name: "the result is elsewhere on the host", code: 303, method: "POST", body: "x", secrets: true, gets: "GET"},
		{name: "the result is on another host", code: 303, method: "POST", body: "x", elsewhere: true, gets: "GET"},
		{name: "a GET on its host", code: 302, method: "GET", secrets: true, signature: true, gets: "GET"},
		{name: "a GET to another host", code: 302, method: "GET", elsewhere: true, gets: "GET"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			other := newReceiver(t, ok)
			base := ""
			r := newReceiver(t, redirectTo(tt.code, func() string { return base + "/there" }))
			last := r
			if tt.elsewhere {
				base, last = other.URL, other
			}
			_, err := call(t.Context(), newEnv(), map[string]any{
				"url": r.URL + "/hooks/token-in-path", "method": tt.method, "body": tt.body, "headers": map[string]any{"X-Api-Key": "from-a-template"},
				"secretHeaders": map[string]any{"Authorization": "hook/auth", "X-Auth": "hook/auth"}, "signingSecret": "hook/sign",
			})
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.ErrorContains(t, err, fmt.Sprintf("status %d", tt.code))
				assert.Equal(t, fault.Command, fault.Of(err))
				assert.Len(t, r.requests(), 1)
				assert.Empty(t, other.requests())
				return
			}
			require.NoError(t, err)
			got := last.requests()[len(last.requests())-1]
			assert.Equal(t, []string{tt.gets, "/there"}, []string{got.method, got.path})
			want := map[bool]string{true: bearer}[tt.secrets]
			assert.Equal(t, []string{want, want}, []string{got.header.Get("Authorization"), got.header.Get("X-Auth")})
			assert.Equal(t, tt.secrets, got.header.Get("X-Api-Key") != "")
			assert.Equal(t, tt.signature, got.header.Get(headerSignature) != "")
			assert.Equal(t, "thaw-0123456789", got.header.Get(headerKey))
			if tt.elsewhere {
				assert.Empty(t, got.header.Get("Referer"), "it would hold the path")
			}
		})
	}
}

// Who has left the host does not get its secrets back by a redirect to it: the
// other host would choose what they are used for.
func TestSecretsDoNotComeBack(t *testing.T) {
	var home *receiver
	other := newReceiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", home.URL+"/there/delete-everything")
		w.WriteHeader(302)
	})
	home = newReceiver(t, redirectTo(302, func() string { return other.URL }))
	_, err := call(t.Context(), newEnv(), map[string]any{"url": home.URL, "method": "GET", "secretHeaders": map[string]any{"Authorization": "hook/auth"}})
	require.NoError(t, err)
	got := home.requests()
	require.Len(t, got, 2)
	assert.Equal(t, bearer, got[0].header.Get("Authorization"))
	assert.Empty(t, got[1].header.Get("Authorization"))
}

func TestRedirectsEnd(t *testing.T) {
	var r *receiver
	r = newReceiver(t, redirectTo(302, func() string { return r.URL + "/again" }))
	_, err := call(t.Context(), newEnv(), map[string]any{"url": r.URL, "method": "GET"})
	require.ErrorContains(t, err, "more than 5 redirects")
	assert.Len(t, r.requests(), 6)
}

func TestExpectedRedirectIsNotFollowed(t *testing.T) {
	var r *receiver
	r = newReceiver(t, redirectTo(303, func() string { return r.URL + "/there" }))
	out, err := call(t.Context(), newEnv(), map[string]any{"url": r.URL, "expectedStatus": []any{"303"}})
	require.NoError(t, err)
	assert.Equal(t, int64(303), out["status"])
	assert.Len(t, r.requests(), 1)
}

// Mistakes are found before anything is sent, and quote no secret.
func TestMistakes(t *testing.T) {
	tests := []struct {
		name string
		args map[string]any
		err  string
	}{
		{"no URL", map[string]any{}, "url"},
		{"not HTTP", map[string]any{"url": "ftp://h/x"}, "want http:// or https://"},
		{"no host", map[string]any{"url": "https:///x"}, "no host"},
		{"a password in the URL", map[string]any{"url": "https://u:pa55@h/x"}, "secretHeaders"},
		{"nonsense in the URL", map[string]any{"url": "http://h/%zz-pa55"}, "no URL"},
		{"another method", map[string]any{"url": "http://h", "method": "BREW"}, `"BREW"`},
		{"two bodies", map[string]any{"url": "http://h", "body": "x", "json": map[string]any{}}, "exclude each other"},
		{"no time", map[string]any{"url": "http://h", "timeout": "0s"}, "timeout"},
		{"a status that is none", map[string]any{"url": "http://h", "expectedStatus": []any{"20x"}}, `"20x"`},
		{"a class that is none", map[string]any{"url": "http://h", "expectedStatus": []any{"1xx"}}, `"1xx"`},
		{"an output named as the function's own", map[string]any{"url": "http://h", "into": map[string]any{"status": "a"}}, "choose another name"},
		{"a path with a hole", map[string]any{"url": "http://h", "into": map[string]any{"id": "a..b"}}, `"a..b"`},
		{"a header that is none", map[string]any{"url": "http://h", "headers": map[string]any{"a b": "x"}}, `"a b"`},
		{"a header with a line break", map[string]any{"url": "http://h", "headers": map[string]any{"A": "x\npa55"}}, "line break"},
		{"a secret header with a line break", map[string]any{"url": "http://h", "secretHeaders": map[string]any{"A": "hook/broken"}}, "line break"},
		{"one header twice", map[string]any{"url": "http://h", "headers": map[string]any{"authorization": "x"}, "secretHeaders": map[string]any{"Authorization": "hook/auth"}}, "given twice"},
		{"a key of one's own", map[string]any{"url": "http://h", "headers": map[string]any{"Idempotency-Key": "x"}}, "same in every attempt"},
		{"a signature of one's own", map[string]any{"url": "http://h", "headers": map[string]any{"x-thaw-signature": "x"}}, "signingSecret"},
		{"a length of one's own", map[string]any{"url": "http://h", "headers": map[string]any{"content-length": "1"}}, "by itself"},
		{"half a reference", map[string]any{"url": "http://h", "secretHeaders": map[string]any{"A": "hook"}}, "secretName/key"},
		{"a secret that nobody gave", map[string]any{"url": "http://h", "signingSecret": "other/key"}, `"other"`},
		{"a key that the secret has not", map[string]any{"url": "http://h", "signingSecret": "hook/other"}, `no key "other"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Functions()[0].Bind(t.Context(), newEnv(), tt.args)
			require.ErrorContains(t, err, tt.err)
			assert.Equal(t, fault.User, fault.Of(err), err)
			assert.NotContains(t, err.Error(), "pa55")
		})
	}
}
