package main

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

const big = 40 << 20

// noise is n bytes, the same each time.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), n)
}

func noiseBytes(t *testing.T, n int64) []byte {
	b, err := io.ReadAll(noise(n))
	require.NoError(t, err)
	return b
}

// subjects are the kinds of stores, each with what leads to it and fails.
var subjects = []struct {
	name  string
	start func(t *testing.T) (templates.Profile, *teststore.Server)
	wrong func(t *testing.T, p *templates.Profile) // credential
	says  string
}{
	{"s3", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartS3(t, teststore.S3Options{})
		return s.Profile, s
	}, func(_ *testing.T, p *templates.Profile) {
		p.Credential.KeyPair = &templates.KeyPair{ID: teststore.Key, Secret: "wrong-secret-of-the-test"}
	}, "credential"},
	{"gcs", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartGCS(t)
		return s.Profile, s
	}, func(t *testing.T, p *templates.Profile) {
		p.Credential.KeyPair = &templates.KeyPair{ID: "thaw", Secret: teststore.WrongServiceAccount(t)}
	}, "credential"},
	{"azure", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartAzure(t)
		return s.Profile, s
	}, func(_ *testing.T, p *templates.Profile) {
		p.Credential.KeyPair = &templates.KeyPair{ID: teststore.Account, Secret: "d3Jvbmctc2VjcmV0LW9mLXRoZS10ZXN0"}
	}, "credential"},
	{"directory", func(t *testing.T) (templates.Profile, *teststore.Server) { return teststore.Directory(t), nil }, nil, ""},
}

func TestLocation(t *testing.T) {
	for _, sub := range subjects {
		t.Run(sub.name, func(t *testing.T) {
			t.Parallel()
			p, server := sub.start(t)
			p.Location.Prefix = "shop/"
			profile, s := text(t, p), open(t, p)
			t.Run("push, pull, delete", func(t *testing.T) { testRoundTrip(t, profile, s) })
			t.Run("delete by prefix", func(t *testing.T) { testDelete(t, profile, s) })
			t.Run("a missing object", func(t *testing.T) {
				out, _, err := run(t, nil, "location", "pull", "-p", profile, "-s", "none", "-")
				require.ErrorIs(t, err, location.ErrNotFound)
				require.ErrorContains(t, err, `"none"`)
				require.Empty(t, out)
				_, log, err := run(t, nil, "location", "delete", "-p", profile, "-s", "none")
				require.NoError(t, err)
				require.Contains(t, log, "objects=0")
			})
			t.Run("an input that breaks", func(t *testing.T) {
				for _, n := range []int64{0, 100, 20 << 20} {
					_, _, err := run(t, io.MultiReader(noise(n), broken1{}), "location", "push", "-p", profile, "-s", "broken", "-")
					require.ErrorContains(t, err, "the input broke")
					require.Empty(t, names(t, s))
				}
			})
			t.Run("a missing bucket", func(t *testing.T) {
				p := p
				if p.Location.Bucket = "nobodys-bucket"; server == nil {
					p.Location.Bucket = filepath.Join(t.TempDir(), "none")
				}
				refusedBy(t, p, "does not exist")
			})
			if sub.wrong != nil {
				t.Run("a wrong credential", func(t *testing.T) {
					p := p
					sub.wrong(t, &p)
					refusedBy(t, p, sub.says)
				})
			}
			if server != nil {
				t.Run("a network that is cut", func(t *testing.T) { testCut(t, profile, s, server.Line) })
			}
		})
	}
}

type broken1 struct{}

func (broken1) Read([]byte) (int, error) { return 0, errors.New("the input broke") }

// refusedBy holds of a profile with which nothing works, by a person's fault.
func refusedBy(t *testing.T, p templates.Profile, says string) {
	t.Helper()
	profile := text(t, p)
	for _, args := range [][]string{{"push", "-"}, {"pull", "-"}, {"delete"}} {
		out, log, err := run(t, strings.NewReader("x"), append([]string{"location", "-p", profile, "-s", "a"}, args...)...)
		require.ErrorContains(t, err, says, args)
		require.Equal(t, 64, code(err), "%v: %v", args, err)
		require.Empty(t, out)
		if k := p.Credential.KeyPair; k != nil {
			require.NotContains(t, err.Error()+log, k.Secret)
		}
	}
}

func testRoundTrip(t *testing.T, profile string, s location.Store) {
	want := noiseBytes(t, 20<<20)
	dir := t.TempDir()
	file := filepath.Join(dir, "dump")
	require.NoError(t, os.WriteFile(file, want, 0o600))
	for _, path := range []string{"db/dump", "/db/dump", "//db//dump/", "db/x/../dump"} {
		out, _, err := run(t, bytes.NewReader(want), "location", "push", "--profile", profile, "--path", path, "-")
		require.NoError(t, err)
		require.Empty(t, out, "nothing is put out")
		require.Equal(t, []string{"db/dump"}, names(t, s))
		out, _, err = run(t, nil, "location", "pull", "--profile", profile, "--path", path, "-")
		require.NoError(t, err)
		require.True(t, out == string(want))
		_, _, err = run(t, nil, "location", "delete", "--profile", profile, "--path", path)
		require.NoError(t, err)
		require.Empty(t, names(t, s))
	}

	out, _, err := run(t, nil, "location", "push", file, "-p", profile, "-s", "file", "-o", "info")
	require.NoError(t, err)
	require.Equal(t, "###Phase-output###: "+`{"key":"info","value":"{\"id\":\"file\",\"logicalSize\":20971520,\"physicalSize\":20971520}"}`+"\n", out)
	target := filepath.Join(dir, "back")
	require.NoError(t, os.WriteFile(target, append(want, "old and longer"...), 0o640))
	_, _, err = run(t, nil, "location", "pull", target, "-p", profile, "-s", "file")
	require.NoError(t, err)
	got, err := os.ReadFile(target)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	st, err := os.Stat(target)
	require.NoError(t, err)
	require.EqualValues(t, 0o640, st.Mode().Perm())

	_, _, err = run(t, nil, "location", "pull", filepath.Join(dir, "no", "where"), "-p", profile, "-s", "file")
	require.ErrorContains(t, err, "no/where")
	_, log, err := run(t, strings.NewReader(""), "location", "push", "-p", profile, "-s", "file", "-")
	require.NoError(t, err)
	require.Contains(t, log, "0 bytes")
	require.Equal(t, "", content(t, s, "file"))
	_, _, err = run(t, nil, "location", "delete", "-p", profile, "-s", "file")
	require.NoError(t, err)
}

func testDelete(t *testing.T, profile string, s location.Store) {
	all := []string{"db-2/dump", "db/1/dump", "db/1/wal/1", "db/10/dump", "db/2"}
	for _, c := range []struct {
		name, path string
		left       []string
	}{
		{"a directory, and not what only begins so", "db/1", []string{"db-2/dump", "db/10/dump", "db/2"}},
		{"a slash at the end says nothing", "db/1/", []string{"db-2/dump", "db/10/dump", "db/2"}},
		{"an object", "db/2/", []string{"db-2/dump", "db/1/dump", "db/1/wal/1", "db/10/dump"}},
		{"one object", "/db/10/dump", []string{"db-2/dump", "db/1/dump", "db/1/wal/1", "db/2"}},
		{"all of a database", "db", []string{"db-2/dump"}},
		{"nothing", "dc", all},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, n := range all {
				put(t, s, n, n)
			}
			_, _, err := run(t, nil, "location", "delete", "-p", profile, "-s", c.path)
			require.NoError(t, err)
			require.Equal(t, c.left, names(t, s))
		})
	}
	for _, n := range all {
		require.NoError(t, s.Delete(t.Context(), n))
	}
}

func testCut(t *testing.T, profile string, s location.Store, line *teststore.Line) {
	defer line.Mend()
	line.CutAfter(20 << 20)
	_, _, err := run(t, noise(big), "location", "push", "-p", profile, "-s", "cut", "-")
	require.Error(t, err)
	require.Equal(t, 75, code(err), "%v", err)
	line.Mend()
	require.Empty(t, names(t, s))

	line.BreakAfter(20 << 20)
	_, _, err = run(t, noise(big), "location", "push", "-p", profile, "-s", "broken", "-")
	require.NoError(t, err, "a break is no end")

	dir := t.TempDir()
	target := filepath.Join(dir, "dump")
	require.NoError(t, os.WriteFile(target, []byte("old"), 0o600))
	line.CutAfter(8 << 20)
	_, _, err = run(t, nil, "location", "pull", "-p", profile, "-s", "broken", target)
	require.Error(t, err)
	require.Equal(t, 75, code(err), "%v", err)
	old, err := os.ReadFile(target)
	require.NoError(t, err)
	require.Equal(t, "old", string(old), "what breaks off replaces nothing")
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	line.Mend()

	line.BreakAfter(8 << 20)
	out, _, err := run(t, nil, "location", "pull", "-p", profile, "-s", "broken", "-")
	require.NoError(t, err)
	require.True(t, out == string(noiseBytes(t, big)))
	line.Cut()
	_, _, err = run(t, nil, "location", "delete", "-p", profile, "-s", "broken")
	require.Equal(t, 75, code(err), "%v", err)
	line.Mend()
	_, _, err = run(t, nil, "location", "delete", "-p", profile, "-s", "broken")
	require.NoError(t, err)
}

func TestCommandLine(t *testing.T) {
	dir := teststore.Directory(t)
	good := text(t, dir)
	put(t, open(t, dir), "a", "stays")
	secret := "c2VjcmV0LW9mLXRoZS10ZXN0"
	garbage := `{"Location":{"type":"s3Compliant","bucket":"b"},"Credential":{"Type":"keyPair","KeyPair":{"ID":"x","Secret":"` + secret + `"`
	for _, c := range []struct {
		name string
		args []string
		says []string
	}{
		{"all that is wrong at once", []string{"location", "push", "-o", "a b"}, []string{"0 arguments", "--profile: it is empty", "--path: it is empty", "--output-name"}},
		{"no flags of a pull", []string{"location", "pull"}, []string{"0 arguments", "--profile", "--path"}},
		{"an argument of a delete", []string{"location", "delete", "-p", good, "-s", "a", "b"}, []string{"1 arguments: want none"}},
		{"an empty path", []string{"location", "delete", "-p", good, "-s", ""}, []string{"--path: it is empty"}},
		{"the root as path", []string{"location", "delete", "-p", good, "-s", "/"}, []string{"--path: it is empty"}},
		{"dots as path", []string{"location", "delete", "-p", good, "-s", "a/.."}, []string{"--path: it is empty"}},
		{"a path that leaves", []string{"location", "delete", "-p", good, "-s", "../a"}, []string{"--path", "leaves the location"}},
		{"a profile that breaks off", []string{"location", "pull", "-p", garbage, "-s", "a", "-"}, []string{"--profile: it is no profile in JSON: it breaks off"}},
		{"a profile that is none", []string{"location", "pull", "-p", "s3://bucket", "-s", "a", "-"}, []string{"goes wrong at byte 1"}},
		{"a profile with more behind it", []string{"location", "pull", "-p", good + good, "-s", "a", "-"}, []string{"something follows"}},
		{"a secret of the wrong type", []string{"location", "pull", "-p", `{"Credential":{"KeyPair":{"Secret":1234567890}}}`, "-s", "a", "-"}, []string{"wrong type: want string"}},
		{"no profile in the run", []string{"location", "pull", "-p", "null", "-s", "a", "-"}, []string{"the run has no location profile"}},
		{"an empty profile", []string{"location", "pull", "-p", "{}", "-s", "a", "-"}, []string{"no type", "no bucket"}},
		{"Kopia's API server", []string{"location", "push", "-p", `{"Location":{"type":"kopia","bucket":"b"},"Credential":{"Type":"kopia"}}`, "-s", "a", "-"}, []string{"Kopia API server, which Thaw does not use"}},
		{"a snapshot of Kopia's", []string{"location", "delete", "-p", good, "-s", "a", "-k", `{"id":"7a1bf1f1b9fa2e7cbe9ee2b1a1a3a9f3","logicalSize":1,"physicalSize":0}`}, []string{"--kopia-snapshot"}},
		{"an unknown flag", []string{"location", "push", "--bucket", "x"}, []string{"--bucket"}},
		{"chronicle push", []string{"chronicle", "push", "-f", "-1s"}, []string{"no command", "--profile-path", "--artifact-path", "--frequency"}},
		{"chronicle pull", []string{"chronicle", "pull"}, []string{"0 arguments", "--profile", "--path"}},
		{"stream push", []string{"stream", "push", "-c", "/none"}, []string{"0 arguments", "--password", "--dirPath", "--filePath", "--config-file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, log, err := run(t, strings.NewReader("new"), c.args...)
			require.Error(t, err)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			require.Equal(t, 64, code(err), "%v", err)
			require.Empty(t, out)
			require.NotContains(t, err.Error()+log, secret)
			require.NotContains(t, err.Error()+log, "1234567890")
		})
	}
	require.Equal(t, "stays", content(t, open(t, dir), "a"))

	for _, snapshot := range []string{"", "<no value>", "{}", `{"id":"a"}`} {
		out, _, err := run(t, nil, "location", "pull", "-p", good, "-s", "a", "-k", snapshot, "-")
		require.NoError(t, err, snapshot)
		require.Equal(t, "stays", out)
	}
	_, _, err := run(t, nil, "location", "push", "-p", good, "-s", "a", t.TempDir())
	require.ErrorContains(t, err, "is a directory")
	_, _, err = run(t, nil, "location", "push", "-p", good, "-s", "a", "/none")
	require.ErrorContains(t, err, "/none")
	require.Equal(t, 64, code(err))
}

// A profile's JSON is what templates render, of every kind of credential.
func TestProfilesOfTemplates(t *testing.T) {
	for _, p := range []templates.Profile{
		teststore.Directory(t),
		{Location: templates.Location{Type: "s3Compliant", Bucket: "b", Region: "eu-central-1", Prefix: "p"}, SkipSSLVerify: true,
			Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "id", Secret: "it's a \"secret\""}}},
		{Location: templates.Location{Type: "s3Compliant", Bucket: "b"},
			Credential: templates.Credential{Type: "secret", Secret: &templates.Secret{Type: "secrets.kanister.io/aws", Data: map[string][]byte{"aws_access_key_id": []byte("a\n"), "role": []byte("r")}}}},
	} {
		got, err := parseProfile([]byte(text(t, p)))
		require.NoError(t, err)
		require.Equal(t, p, got)
	}
	// Kanister's own, with what we have no field for.
	got, err := parseProfile([]byte(`{"Location":{"type":"azure","bucket":"b","endpoint":"","prefix":"","region":""},"Credential":{"Type":"secret","KeyPair":null,
		"Secret":{"metadata":{"name":"az","namespace":"kanister","uid":"1","creationTimestamp":"2026-01-01T00:00:00Z","managedFields":[]},
		"data":{"azure_storage_account_id":"YWNjb3VudA==","azure_storage_key":"a2V5"},"type":"secrets.kanister.io/azure"},"KopiaServerSecret":null},"SkipSSLVerify":false}`))
	require.NoError(t, err)
	require.Equal(t, "account", string(got.Credential.Secret.Data["azure_storage_account_id"]))
}

func FuzzProfile(f *testing.F) {
	f.Add([]byte(`{"Location":{"type":"s3Compliant","bucket":"b"},"Credential":{"Type":"keyPair","KeyPair":{"ID":"i","Secret":"s"}},"SkipSSLVerify":false}`))
	f.Add([]byte(`{"Location":{"type":"directory","bucket":"/x"}}`))
	f.Add([]byte("null"))
	f.Add([]byte(`{"Credential":{"Secret":{"data":{"a":"%"}}}} x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parseProfile(b)
		if err != nil {
			require.Equal(t, templates.Profile{}, p)
			return
		}
		require.NoError(t, location.Check(p))
		again, err := parseProfile([]byte(text(t, p)))
		require.NoError(t, err)
		require.Equal(t, text(t, p), text(t, again))
	})
}
