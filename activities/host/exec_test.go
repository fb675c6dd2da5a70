package host

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/activities/kando"
	"thaw/blueprints/fault"
)

var shell = Config{Allow: []string{"/bin/sh", "/usr/bin/pg_*"}}

func sh(t *testing.T, env *function.Env, script string, more map[string]any) (function.Outputs, error) {
	t.Helper()
	args := map[string]any{"command": []any{"/bin/sh", "-c", script}}
	for k, v := range more {
		args[k] = v
	}
	return call(t.Context(), shell, env, "Exec", args)
}

func TestExecReadsOutputs(t *testing.T) {
	out, err := sh(t, newEnv(t, ""), `echo noise; echo '`+kando.Marker+` {"key":"lsn","value":"0/1"}'; cat; echo "`+kando.Marker+` {\"key\":\"who\",\"value\":\"$WHO $PASSWORD_SET\"}"`, map[string]any{
		"stdin": kando.Marker + ` {"key":"in","value":"read"}` + "\n", "env": map[string]any{"WHO": "me", "PASSWORD_SET": "no"},
	})
	require.NoError(t, err)
	require.Equal(t, function.Outputs{"lsn": "0/1", "in": "read", "who": "me no"}, out)
}

func TestExecHasAnEmptyEnvironment(t *testing.T) {
	t.Setenv("WORKER_TOKEN", "must-not-be-seen")
	file := filepath.Join(t.TempDir(), "env")
	_, err := sh(t, newEnv(t, ""), "env", map[string]any{"stdoutFile": file, "secretEnv": map[string]any{"PGPASSWORD": "admin/password"}})
	require.NoError(t, err)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NotContains(t, string(b), "WORKER_TOKEN")
	require.Contains(t, string(b), "PGPASSWORD=s3cr3t-value")
}

func TestExecRefuses(t *testing.T) {
	cases := []struct {
		name string
		cfg  Config
		args map[string]any
		says string
	}{
		{"everything by default", Config{}, map[string]any{"command": []any{"/bin/sh"}}, "exec.allow"},
		{"what is not allowed", shell, map[string]any{"command": []any{"/bin/cat"}}, "exec.allow"},
		{"a way around", shell, map[string]any{"command": []any{"/bin/../usr/bin/env"}}, "exec.allow"},
		{"a name without a path", shell, map[string]any{"command": []any{"sh"}}, "absolute path"},
		{"a pattern across directories", Config{Allow: []string{"/usr/*"}}, map[string]any{"command": []any{"/usr/bin/env"}}, "exec.allow"},
		{"an unknown secret", shell, map[string]any{"command": []any{"/bin/sh"}, "secretEnv": map[string]any{"A": "other/key"}}, "other"},
		{"an unknown key", shell, map[string]any{"command": []any{"/bin/sh"}, "secretEnv": map[string]any{"A": "admin/key"}}, `no key "key"`},
		{"an unknown user", shell, map[string]any{"command": []any{"/bin/sh"}, "runAs": "nobody-of-that-name"}, "nobody-of-that-name"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := call(t.Context(), c.cfg, newEnv(t, ""), "Exec", c.args)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, fault.User, fault.Of(err))
			require.NotContains(t, err.Error(), "s3cr3t-value")
		})
	}
}

func TestExecSaysHowItFailed(t *testing.T) {
	_, err := sh(t, newEnv(t, ""), "echo first >&2; echo 'could not connect' >&2; exit 3", nil)
	require.ErrorContains(t, err, "exit code 3: first | could not connect")
	require.Equal(t, fault.Command, fault.Of(err))
	_, err = sh(t, newEnv(t, ""), "kill -9 $$", nil)
	require.ErrorContains(t, err, "killed")
	_, err = sh(t, newEnv(t, ""), "echo '"+kando.Marker+" {bad'", nil)
	require.ErrorContains(t, err, "outputs cannot be read")
	require.Equal(t, fault.Command, fault.Of(err))
}

func TestExecWritesAFileWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "deep", "dump.sql.zst")
	out, err := sh(t, newEnv(t, ""), "for i in 1 2 3; do echo line $i; done", map[string]any{"stdoutFile": file})
	require.NoError(t, err)
	require.Equal(t, file, out["file"])
	require.NoError(t, checkDigest(t.Context(), file, out["sha256"].(string)))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := zstd.NewReader(f)
	require.NoError(t, err)
	defer z.Close()
	back, err := sh(t, newEnv(t, ""), `n=$(wc -l); echo '`+kando.Marker+`{"key":"n","value":'$n'}'`, map[string]any{"stdinFile": file})
	require.NoError(t, err)
	require.Equal(t, int64(3), back["n"])

	_, err = sh(t, newEnv(t, ""), "echo half; exit 1", map[string]any{"stdoutFile": filepath.Join(dir, "failed.sql")})
	require.Error(t, err)
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 1, "neither the file nor a partial one")
}

func TestExecEndsAllThatItStarted(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := call(ctx, shell, newEnv(t, ""), "Exec", map[string]any{"command": []any{"/bin/sh", "-c", "sleep 300 & echo $! > " + pidFile + ".new; mv " + pidFile + ".new " + pidFile + "; wait"}})
		done <- err
	}()
	require.Eventually(t, func() bool { _, err := os.Stat(pidFile); return err == nil }, testWait, testTick)
	b, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	require.NoError(t, err)
	cancel()
	err = <-done
	require.Equal(t, fault.Unknown, fault.Of(err), err.Error())
	require.Eventually(t, func() bool {
		st, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		return err != nil || strings.Contains(string(st), ") Z ") || syscall.Kill(pid, 0) != nil
	}, testWait, testTick)
}
