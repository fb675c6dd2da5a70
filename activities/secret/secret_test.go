package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

const planted = `s3cr3t/"+pa ss`

func TestRedactor(t *testing.T) {
	r := NewRedactor()
	r.Learn([]byte(planted))
	r.Learn([]byte("-----BEGIN KEY-----\nline-of-the-key\n"))
	r.Learn([]byte("abc")) // too short to be a secret
	tests := []struct{ name, in, want string }{
		{"as it is", "password is " + planted + "!", "password is ********!"},
		{"in base64", base64.StdEncoding.EncodeToString([]byte(planted)), "********M="},
		{"in a basic authorization", base64.StdEncoding.EncodeToString([]byte("u:" + planted)), "dTp********w=="},
		{"in a URL", "postgres://u:s3cr3t%2F%22%2Bpa+ss@h", "postgres://u:********@h"},
		{"in JSON", `{"p":"s3cr3t/\"+pa ss"}`, `{"p":"********"}`},
		{"in hex", fmt.Sprintf("%x", planted), "********"},
		{"one line of it", "got line-of-the-key here", "got ******** here"},
		{"nothing", "abc is not masked", "abc is not masked"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, r.Text(tt.in)) })
	}
	got := r.Value(map[string]any{"a": []any{planted, int64(3)}, planted: map[string]string{"x": planted}, "b": []string{planted}, "e": errors.New(planted)})
	assert.NotContains(t, fmt.Sprint(got), planted)
	assert.Equal(t, int64(3), got.(map[string]any)["a"].([]any)[1])
}

func TestRedactorKnowsEveryType(t *testing.T) {
	type named string
	r := NewRedactor()
	r.Learn([]byte(planted))
	r.Learn([]byte("83746512"))
	tests := []struct {
		name     string
		in, want any
	}{
		{"a number that is no secret", int64(8374651), int64(8374651)},
		{"a number that is one", int64(83746512), Mask},
		{"a number that has one in it", int64(183746512), int64(183746512)},
		{"nothing", nil, nil},
		{"yes", true, true},
		{"a type of its own", named(planted), Mask},
		{"a list of maps", []map[string]string{{"a": planted}}, []any{map[string]any{"a": Mask}}},
		{"a structure", struct{ A []string }{[]string{planted}}, map[string]any{"A": []any{Mask}}},
		{"what is no JSON", func() {}, Mask},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, r.Value(tt.in)) })
	}
}

// A text that is cut or wrapped in the midst of a secret, or quotes only the
// token of it.
func TestRedactorKnowsPieces(t *testing.T) {
	const token = "7fK2m9Qx4Lz8Rt1Wc6Yv3Bn5"
	encoded := base64.StdEncoding.EncodeToString([]byte("user:Bearer " + token))
	r := NewRedactor()
	r.Learn([]byte("Bearer " + token))
	r.Learn([]byte("postgres://shop:" + planted + "@db-primary-eu-west-1.internal.example:5432/production2024"))
	tests := []struct{ name, in, want string }{
		{"the token alone", "token " + token + " is invalid", "token ******** is invalid"},
		{"cut at its end", "said Bearer " + token[:14] + "...", "said Bearer ********..."},
		{"cut at its start", "..." + token[10:], "...********"},
		{"too little to know", token[:11], token[:11]},
		{"twice", token[2:] + " " + token[:20], "******** ********"},
		{"wrapped base64", encoded[:20] + "\n" + encoded[20:40] + " | " + encoded[40:], "dXNlcjp********"},
		{"upper-case hex", fmt.Sprintf("%X", token), "********"},
		{"half of its hex", fmt.Sprintf("%x", token)[20:], "********"},
		{"a host's name", "connect to db-primary-eu-west-1.internal.example:5432: refused", "connect to db-primary-eu-west-1.internal.example:5432: refused"},
		{"a database's name", "database production2024", "database production2024"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, r.Text(tt.in)) })
	}
}

func TestHandlerLogsNoSecret(t *testing.T) {
	r := NewRedactor()
	r.Learn([]byte(planted))
	var out bytes.Buffer
	log := slog.New(r.Handler(slog.NewJSONHandler(&out, nil))).With("with", planted).WithGroup("g")
	log.Info("message "+planted, "string", planted, "error", fmt.Errorf("wrapped: %s", planted),
		"struct", struct{ P string }{planted}, slog.Group("group", "x", planted), "bytes", []byte(planted))
	for _, form := range []string{planted, `s3cr3t/\"+pa ss`, "s3cr3t"} {
		assert.NotContains(t, out.String(), form)
	}
	assert.Contains(t, out.String(), Mask)
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	put := func(path, text string) {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	put("pg/username", "thaw\n")
	put("pg/password", planted+"\n")
	put("pg/..data", "not a key")
	put("shop/pg/password", "of a namespace")
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	s := &Store{Secrets: dir, Redact: NewRedactor()}
	tests := []struct {
		name string
		ref  plan.Reference
		want map[string][]byte
		err  string
	}{
		{name: "one file a key, without the last newline", ref: plan.Reference{Name: "pg"}, want: map[string][]byte{"username": []byte("thaw"), "password": []byte(planted)}},
		{name: "of a namespace", ref: plan.Reference{Name: "pg", Namespace: "shop"}, want: map[string][]byte{"password": []byte("of a namespace")}},
		{name: "none of that name", ref: plan.Reference{Name: "my"}, err: "make one, with a file for each key"},
		{name: "without a key", ref: plan.Reference{Name: "empty"}, err: "has no file"},
		{name: "a path is no name", ref: plan.Reference{Name: "../pg"}, err: "is no name"},
		{name: "nor is one in the namespace", ref: plan.Reference{Name: "pg", Namespace: ".."}, err: "is no name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.Secret(t.Context(), tt.ref)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.Equal(t, fault.User, fault.Of(err))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	assert.Equal(t, "thaw ********", s.Redact.Text("thaw "+planted), "who is no secret; how to get in is")

	_, err := (&Store{Redact: NewRedactor()}).Secret(t.Context(), plan.Reference{Name: "pg"})
	require.ErrorContains(t, err, "secretsDir")
	_, err = Of{Store: s}.Named(t.Context(), "admin")
	require.ErrorContains(t, err, `"secrets": {"admin": {"name": "..."}}`)
	got, err := Of{Store: s, Names: map[string]plan.Reference{"admin": {Name: "pg"}}}.Named(t.Context(), "admin")
	require.NoError(t, err)
	assert.Equal(t, planted, string(got["password"]))
}
