package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/activities/kando"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// asKando makes the test's own program kando, for tests of whole processes.
const asKando = "THAW_TEST_AS_KANDO"

func TestMain(m *testing.M) {
	if os.Getenv(asKando) == "1" {
		main()
		return
	}
	os.Exit(m.Run())
}

// bin is a directory with kando in it, for PATH.
func bin(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.Symlink(self, filepath.Join(dir, "kando")))
	return dir
}

func environ(t *testing.T, more ...string) []string {
	return append(append(os.Environ(), asKando+"=1", "PATH="+bin(t)+":"+os.Getenv("PATH")), more...)
}

// run runs kando in this process.
func run(t *testing.T, in io.Reader, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return runContext(t.Context(), in, args...)
}

func runContext(ctx context.Context, in io.Reader, args ...string) (stdout, stderr string, err error) {
	var out, log bytes.Buffer
	c := root()
	c.SetArgs(args)
	c.SetIn(in)
	c.SetOut(&out)
	c.SetErr(&log)
	err = c.ExecuteContext(ctx)
	return out.String(), log.String(), err
}

func code(err error) int {
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	if err != nil {
		return 1
	}
	return 0
}

func text(t testing.TB, p templates.Profile) string {
	t.Helper()
	b, err := json.Marshal(p)
	require.NoError(t, err)
	return string(b)
}

func open(t testing.TB, p templates.Profile) location.Store {
	t.Helper()
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func names(t testing.TB, s location.Store) []string {
	t.Helper()
	got := []string{}
	require.NoError(t, s.List(t.Context(), "", func(o location.Object) error {
		got = append(got, o.Name)
		return nil
	}))
	return got
}

func content(t testing.TB, s location.Store, name string) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, 0, -1)
	require.NoError(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(b)
}

func put(t testing.TB, s location.Store, name, content string) {
	t.Helper()
	_, err := s.Put(t.Context(), name, strings.NewReader(content), location.PutOptions{})
	require.NoError(t, err)
}

func TestVersion(t *testing.T) {
	out, _, err := run(t, nil, "version")
	require.NoError(t, err)
	var v struct{ Version, GitCommit, BuildDate string }
	require.NoError(t, json.Unmarshal([]byte(out), &v))
	require.NotEmpty(t, v.Version)
	long, _, err := run(t, nil, "--version")
	require.NoError(t, err)
	require.Equal(t, "kando version "+out, long)
}

func TestVerbosity(t *testing.T) {
	p := text(t, teststore.Directory(t))
	_, log, err := run(t, strings.NewReader("x"), "location", "push", "-v", "info", "-p", p, "-s", "a", "-")
	require.NoError(t, err)
	require.Contains(t, log, "pushed")
	_, log, err = run(t, strings.NewReader("x"), "-v", "error", "location", "push", "-p", p, "-s", "a", "-")
	require.NoError(t, err)
	require.Empty(t, log)
	_, _, err = run(t, nil, "-v", "loud", "output", "a", "b")
	require.ErrorContains(t, err, `"loud"`)
	require.Equal(t, 64, code(err))
}

// A process is killed, or told to end, while its input is still open.
func TestWhatEndsInTheMiddleLeavesNothing(t *testing.T) {
	for name, p := range map[string]templates.Profile{"directory": teststore.Directory(t), "s3": teststore.S3(t)} {
		for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
			t.Run(name+" "+sig.String(), func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), "kando", "location", "push", "-p", text(t, p), "-s", "dump", "-")
				cmd.Path, cmd.Err, cmd.Env = filepath.Join(bin(t), "kando"), nil, environ(t)
				in, err := cmd.StdinPipe()
				require.NoError(t, err)
				require.NoError(t, cmd.Start())
				_, err = in.Write(make([]byte, 20<<20)) // it has begun to send parts
				require.NoError(t, err)
				require.NoError(t, cmd.Process.Signal(sig))
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case err := <-ended:
					require.Error(t, err)
				case <-time.After(30 * time.Second):
					require.NoError(t, cmd.Process.Kill())
					t.Fatal("it waits for its input")
				}
				require.Empty(t, names(t, open(t, p)))
			})
		}
	}
}

// The forms of `kando` in the public blueprints, in a shell.
func TestFormsOfPublicBlueprints(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("bash not found")
	}
	p := teststore.S3(t)
	p.Location.Prefix = "kanister"
	s := open(t, p)
	dir := t.TempDir()
	script := func(t *testing.T, lines string) (map[string]any, string) {
		t.Helper()
		// As a template renders it.
		lines = strings.ReplaceAll(lines, "{{ toJson .Profile }}", text(t, p))
		cmd := exec.CommandContext(t.Context(), bash, "-o", "errexit", "-o", "pipefail", "-c", lines)
		cmd.Dir, cmd.Env = dir, environ(t)
		var log bytes.Buffer
		cmd.Stderr = &log
		out, err := cmd.Output()
		require.NoError(t, err, "%s", log.String())
		var parser kando.Parser
		_, _ = parser.Write(out)
		outputs, err := parser.Close()
		require.NoError(t, err)
		return outputs, string(out)
	}
	t.Run("a dump by the pipe", func(t *testing.T) {
		out, _ := script(t, `
			s3_path="/mysql-backups/shop/db/2026-11-25T17-00-00/dump.sql.gz"
			printf 'CREATE TABLE t' | gzip -c | kando location push --profile '{{ toJson .Profile }}' --path ${s3_path} -
			kando output s3path ${s3_path}`)
		require.Equal(t, map[string]any{"s3path": "/mysql-backups/shop/db/2026-11-25T17-00-00/dump.sql.gz"}, out)
		require.Equal(t, []string{"mysql-backups/shop/db/2026-11-25T17-00-00/dump.sql.gz"}, names(t, s))
		_, restored := script(t, `
			s3_path="/mysql-backups/shop/db/2026-11-25T17-00-00/dump.sql.gz"
			kando location pull --profile '{{ toJson .Profile }}' --path ${s3_path} - | gunzip`)
		require.Equal(t, "CREATE TABLE t", restored)
		_, out2 := script(t, `
			s3_path="/mysql-backups/shop/db/2026-11-25T17-00-00/dump.sql.gz"
			kando location delete --profile '{{ toJson .Profile }}' --path ${s3_path}`)
		require.Empty(t, out2)
		require.Empty(t, names(t, s))
	})
	t.Run("a file, before its path", func(t *testing.T) {
		script(t, `
			BACKUP_LOCATION=es-backups/shop/backup.gz
			printf x > backup.gz
			kando location push --profile '{{ toJson .Profile }}'  backup.gz --path $BACKUP_LOCATION
			kando location pull --profile '{{ toJson .Profile }}' --path "${BACKUP_LOCATION}" copy.gz
			cmp backup.gz copy.gz
			kando location delete --profile '{{ toJson .Profile }}' --path "${BACKUP_LOCATION}"`)
		require.Empty(t, names(t, s))
	})
	t.Run("a directory's archive", func(t *testing.T) {
		script(t, `
			mkdir -p backups/sub && printf y > backups/sub/f
			tar zcf - backups | kando location push --profile '{{ toJson .Profile }}' --path '/couchbase-backups/2026/backup.tgz' -
			mkdir -p back && kando location pull --profile '{{ toJson .Profile }}' --path '/couchbase-backups/2026/backup.tgz' - | tar zxf - -C back
			cmp backups/sub/f back/backups/sub/f
			kando location delete --profile '{{ toJson .Profile }}' --path '/couchbase-backups/2026/backup.tgz'`)
	})
	t.Run("what a push puts out goes back to pull and delete", func(t *testing.T) {
		out, _ := script(t, `
			backup_file_path="dump.sql"
			printf 'dump' | kando location push --profile '{{ toJson .Profile }}' --path "${backup_file_path}" --output-name "kopiaOutput" -`)
		require.Equal(t, map[string]any{"kopiaOutput": `{"id":"dump.sql","logicalSize":4,"physicalSize":4}`}, out)
		_, restored := script(t, `
			backup_file_path="dump.sql"
			kopia_snap='`+out["kopiaOutput"].(string)+`'
			kando location pull --profile '{{ toJson .Profile }}' --path "${backup_file_path}" --kopia-snapshot "${kopia_snap}" -
			kando location delete --profile '{{ toJson .Profile }}' --path "${backup_file_path}" --kopia-snapshot "${kopia_snap}"`)
		require.Equal(t, "dump", restored)
		require.Empty(t, names(t, s))
	})
	t.Run("a consumer that ends early, and one that reads all", func(t *testing.T) {
		put(t, s, "big", strings.Repeat("line\n", 1<<20))
		_, out := script(t, `set +o pipefail; kando location pull -p '{{ toJson .Profile }}' -s big - | head -1`)
		require.Equal(t, "line\n", out)
		_, out = script(t, `kando location pull -p '{{ toJson .Profile }}' -s big - | wc -l`)
		require.Equal(t, "1048576", strings.TrimSpace(out))
	})
	t.Run("a producer that fails, and an input that nobody gives", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), bash, "-o", "pipefail", "-c", `false | kando location push -p '`+text(t, p)+`' -s none -`)
		cmd.Env = environ(t)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, "by pipefail")
		require.Contains(t, string(out), "0 bytes")
		cmd = exec.CommandContext(t.Context(), bash, "-c", `kando location push -p '`+text(t, p)+`' -s none2 - </dev/null`)
		cmd.Env = environ(t)
		out, err = cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "nothing is piped")
		require.NotContains(t, names(t, s), "none2")
	})
}
