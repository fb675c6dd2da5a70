package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/templates"
	"thaw/internal/repository"
	"thaw/internal/teststore"
)

const passphrase = "passphrase-of-the-test"

// kopiaFile is what `kopia repository connect` writes.
func kopiaFile(t *testing.T, kind string, config map[string]any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"storage": map[string]any{"type": kind, "config": config},
		"caching": map[string]any{"cacheDirectory": "/x"}, "hostname": "h", "username": "u", "enableActions": false,
	})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "repository.config")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	return file
}

func s3Config(p templates.Profile) map[string]any {
	return map[string]any{
		"bucket": p.Location.Bucket, "prefix": "kopia/shop/", "endpoint": strings.TrimPrefix(p.Location.Endpoint, "http://"), "doNotUseTLS": true,
		"region": "us-east-1", "accessKeyID": teststore.Key, "secretAccessKey": teststore.Secret, "sessionToken": "",
	}
}

func repo(t *testing.T, p templates.Profile, create bool) *repository.Repository {
	t.Helper()
	r, err := repository.Open(t.Context(), open(t, p), repository.Options{Prefix: "kopia/shop", Passphrase: passphrase, Create: create})
	require.NoError(t, err)
	return r
}

func TestStreamPush(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	p := server.Profile
	config := kopiaFile(t, "s3", s3Config(p))
	require.NoError(t, repo(t, p, true).Close(t.Context()))
	dump := noiseBytes(t, 20<<20)
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/dump":
			_, _ = w.Write(dump)
		case "/breaks":
			w.Header().Set("Content-Length", fmt.Sprint(len(dump)))
			_, _ = w.Write(dump[:10<<20])
			panic(http.ErrAbortHandler)
		default:
			http.Error(w, "no dump today", http.StatusInternalServerError)
		}
	}))
	defer source.Close()
	push := func(t *testing.T, from string, more ...string) (string, error) {
		t.Helper()
		out, log, err := run(t, strings.NewReader("by the pipe"), append([]string{"stream", "push", "-p", passphrase, "-c", config, "-d", "/mnt/data", "-f", "shop/dump.sql", from}, more...)...)
		if err != nil {
			require.Empty(t, out)
			require.NotContains(t, err.Error()+log, passphrase)
			require.NotContains(t, err.Error()+log, teststore.Secret)
		}
		return out, err
	}
	for _, c := range []struct{ from, want string }{{source.URL + "/dump", string(dump)}, {"-", "by the pipe"}} {
		out, err := push(t, c.from)
		require.NoError(t, err)
		m := regexp.MustCompile(`^Created snapshot with root k[0-9a-f]+ and ID ([0-9a-f]+) in \S+\n$`).FindStringSubmatch(out)
		require.NotNil(t, m, out)
		r := repo(t, p, false)
		target := t.TempDir()
		_, err = r.Restore(t.Context(), m[1], target, repository.RestoreOptions{})
		require.NoError(t, err)
		require.NoError(t, r.Close(t.Context()))
		got, err := os.ReadFile(filepath.Join(target, "shop", "dump.sql"))
		require.NoError(t, err)
		require.True(t, string(got) == c.want)
	}
	_, err := push(t, source.URL+"/none")
	require.ErrorContains(t, err, "500")
	_, err = push(t, source.URL+"/breaks")
	require.ErrorContains(t, err, "broke off")
	require.Equal(t, 75, code(err))
	_, err = push(t, "http://thaw:hidden-password@127.0.0.1:1/x")
	require.Error(t, err)
	require.NotContains(t, err.Error(), "hidden-password")
	_, err = push(t, "/etc/passwd")
	require.ErrorContains(t, err, "it is no address")
	_, err = push(t, "-", "-p", "wrong")
	require.ErrorIs(t, err, repository.ErrPassphrase)
	require.Equal(t, 64, code(err))

	r := repo(t, p, false)
	list, err := r.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2, "of what failed nothing is a snapshot")
	require.NoError(t, r.Close(t.Context()))
}

func TestKopiaConfig(t *testing.T) {
	s3 := func(change map[string]any) map[string]any {
		c := s3Config(templates.Profile{Location: templates.Location{Bucket: "b", Endpoint: "http://127.0.0.1:1"}})
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	for _, c := range []struct {
		name, kind string
		config     map[string]any
		says       string // "": it is good
	}{
		{"s3", "s3", s3(nil), ""},
		{"Amazon's", "s3", s3(map[string]any{"endpoint": "s3.amazonaws.com", "doNotUseTLS": false, "roleARN": "arn:aws:iam::1:role/x"}), ""},
		{"gcs", "gcs", map[string]any{"bucket": "b", "prefix": "p/", "credentials": map[string]any{"project_id": "x"}}, ""},
		{"gcs by the environment", "gcs", map[string]any{"bucket": "b", "prefix": "p/", "credentials": nil}, ""},
		{"azure", "azureBlob", map[string]any{"container": "b", "prefix": "p/", "storageAccount": "a", "storageKey": "a2V5"}, ""},
		{"azure elsewhere", "azureBlob", map[string]any{"container": "b", "prefix": "p/", "storageAccount": "a", "storageKey": "a2V5", "storageDomain": "blob.core.chinacloudapi.cn"}, ""},
		{"azure by a token", "azureBlob", map[string]any{"container": "b", "prefix": "p/", "storageAccount": "a", "sasToken": "hidden-token"}, "SAS token"},
		{"a credential that is half", "s3", s3(map[string]any{"secretAccessKey": ""}), "belong together"},
		{"a file of credentials that is missing", "gcs", map[string]any{"bucket": "b", "prefix": "p/", "credentialsFile": "/none"}, "/none"},
		{"a directory", "filesystem", map[string]any{"path": "/x"}, "filesystem"},
		{"no prefix", "s3", s3(map[string]any{"prefix": ""}), "prefix"},
		{"a prefix of names", "s3", s3(map[string]any{"prefix": "kopia-"}), "prefix"},
		{"a prefix that leaves", "s3", s3(map[string]any{"prefix": "../x/"}), "prefix"},
		{"only to be read", "gcs", map[string]any{"bucket": "b", "prefix": "p/", "readOnly": true}, "only read"},
		{"of the past", "s3", s3(map[string]any{"pointInTime": "2026-01-01T00:00:00Z"}), "only read"},
		{"a field of the wrong type", "s3", s3(map[string]any{"secretAccessKey": 1234567890}), "wrong type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := os.ReadFile(kopiaFile(t, c.kind, c.config))
			require.NoError(t, err)
			p, prefix, err := kopiaConfig(b)
			if c.says == "" {
				require.NoError(t, err)
				require.Equal(t, "b", p.Location.Bucket)
				require.NotEmpty(t, prefix)
				return
			}
			require.ErrorContains(t, err, c.says)
			for _, secret := range []string{"hidden-token", teststore.Secret, "1234567890"} {
				require.NotContains(t, err.Error(), secret)
			}
		})
	}
	for text, says := range map[string]string{
		"": "breaks off", "no json": "goes wrong", "{}": "names no storage", `{"apiServer":{"url":"https://x"}}`: "API server",
	} {
		_, _, err := kopiaConfig([]byte(text))
		require.ErrorContains(t, err, says)
	}
}

func FuzzKopiaConfig(f *testing.F) {
	f.Add([]byte(`{"storage":{"type":"s3","config":{"bucket":"b","prefix":"p/","endpoint":"e","accessKeyID":"a","secretAccessKey":"s"}}}`))
	f.Add([]byte(`{"storage":{"type":"azureBlob","config":{"container":"b","prefix":"p/","storageAccount":"a"}}}`))
	f.Add([]byte(`{"apiServer":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if strings.Contains(strings.ToLower(string(b)), "credentialsfile") || strings.ContainsRune(string(b), '\\') {
			t.Skip("it would read files of this machine")
		}
		_, prefix, err := kopiaConfig(b)
		if err == nil {
			require.NotEmpty(t, prefix)
		}
	})
}
