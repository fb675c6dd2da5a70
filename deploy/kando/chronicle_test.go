package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// chronicle1 is a chronicler whose files are there.
func chronicle1(t *testing.T, p templates.Profile, path, command string) *chronicler {
	t.Helper()
	dir := t.TempDir()
	h := &chronicler{profile: filepath.Join(dir, "profile.json"), artifact: filepath.Join(dir, "artifact"), command: command, every: time.Millisecond}
	h.log, h.stderr = newLogger(&bytes.Buffer{}, 0), &bytes.Buffer{}
	require.NoError(t, os.WriteFile(h.profile, []byte(text(t, p)), 0o600))
	require.NoError(t, os.WriteFile(h.artifact, []byte(path+"\n"), 0o600))
	return h
}

func TestChronicle(t *testing.T) {
	for name, p := range map[string]templates.Profile{"s3": teststore.S3(t), "gcs": teststore.GCS(t), "directory": teststore.Directory(t)} {
		t.Run(name, func(t *testing.T) {
			p.Location.Prefix = "shop"
			s, profile := open(t, p), text(t, p)
			pulled := func() string {
				out, _, err := run(t, nil, "chronicle", "pull", "-p", profile, "-s", "/log/wal", "-")
				require.NoError(t, err)
				return out
			}
			_, _, err := run(t, nil, "chronicle", "pull", "-p", profile, "-s", "/log/wal", "-")
			require.ErrorIs(t, err, location.ErrNotFound)

			counter := filepath.Join(t.TempDir(), "n")
			h := chronicle1(t, p, "/log/wal", `echo x >>`+counter+` && wc -l <`+counter)
			for i := range 12 { // past the seam from one digit to two
				require.NoError(t, h.push(t.Context()))
				require.Equal(t, fmt.Sprint(i+1), strings.TrimSpace(pulled()))
				require.Equal(t, fmt.Sprintf("/log/wal-%d", i), content(t, s, "log/wal"), "as Kanister writes it")
				require.Equal(t, []string{"log/wal", fmt.Sprintf("log/wal-%d", i)}, names(t, s), "what was before is gone, and nothing else")
			}
			// Another process goes on with the numbers: a reader of now keeps its data.
			again := chronicle1(t, p, "/log/wal", "echo again")
			require.NoError(t, again.push(t.Context()))
			require.Equal(t, "again\n", pulled())
			require.Equal(t, []string{"log/wal", "log/wal-12"}, names(t, s))
			again.artifact = filepath.Join(t.TempDir(), "other")
			require.NoError(t, os.WriteFile(again.artifact, []byte("other"), 0o600))
			require.NoError(t, again.push(t.Context()))
			require.Equal(t, "other-0", content(t, s, "other"))

			t.Run("a command that fails keeps the last", func(t *testing.T) {
				before := names(t, s)
				for _, command := range []string{"echo half; exit 3", "head -c 20000000 /dev/zero; false", "no-such-command"} {
					err := chronicle1(t, p, "/log/wal", command).push(t.Context())
					require.ErrorContains(t, err, "the command failed", command)
					require.Equal(t, fault.Command, fault.Of(err))
					require.Equal(t, before, names(t, s))
				}
				require.Equal(t, "again\n", pulled())
			})
			_, _, err = run(t, nil, "location", "delete", "-p", profile, "-s", "/log/wal")
			require.NoError(t, err)
			require.Equal(t, []string{"other", "other-0"}, names(t, s))
		})
	}
}

func TestChronicleWaitsForItsFiles(t *testing.T) {
	p := teststore.Directory(t)
	s := open(t, p)
	h := chronicle1(t, p, "log", "echo x")
	missing := *h
	missing.profile = "/none"
	require.NoError(t, missing.push(t.Context()))
	missing = *h
	missing.artifact = "/none"
	require.NoError(t, missing.push(t.Context()))
	require.Empty(t, names(t, s))
	require.NoError(t, os.WriteFile(h.artifact, []byte("\n"), 0o600))
	require.ErrorContains(t, h.push(t.Context()), "empty")
	require.NoError(t, os.WriteFile(h.profile, []byte("{"), 0o600))
	require.ErrorContains(t, h.push(t.Context()), "profile "+h.profile)
}

func TestChronicleEnvironment(t *testing.T) {
	dir := t.TempDir()
	// As a Secret's volume has them.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..2026"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "..2026", "PASSWORD"), []byte("it's me"), 0o600))
	require.NoError(t, os.Symlink("..2026", filepath.Join(dir, "..data")))
	require.NoError(t, os.Symlink("..data/PASSWORD", filepath.Join(dir, "PASSWORD")))
	p := teststore.Directory(t)
	h := chronicle1(t, p, "log", `printf %s "$PASSWORD-$HOME"`)
	h.env = dir
	t.Setenv("HOME", "/home")
	require.NoError(t, h.push(t.Context()))
	require.Equal(t, "it's me-/home", content(t, open(t, p), "log-0"))
	h.env = "/none"
	require.NoError(t, h.push(t.Context()))
	require.Equal(t, "-/home", content(t, open(t, p), "log-1"))
}

// It runs until a signal, again and again, and ends what it runs.
func TestChroniclePushUntilASignal(t *testing.T) {
	p := teststore.Directory(t)
	s := open(t, p)
	h := chronicle1(t, p, "log", "")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	pid := filepath.Join(t.TempDir(), "pid")
	go func() {
		_, _, err := runContext(ctx, nil, "chronicle", "push", "-p", h.profile, "-s", h.artifact, "-f", "1ms", "--",
			"if", "[", "-e", pid+".last", "];", "then", "sleep", "1000", "&", "echo", "$!", ">"+pid+";", "wait;", "fi;", "echo", "data")
		ended <- err
	}()
	require.Eventually(t, func() bool {
		at, err := chronicled(t.Context(), s, "log")
		return err == nil && at >= "log-3"
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, os.WriteFile(pid+".last", nil, 0o600))
	var child int
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(pid)
		_, err2 := fmt.Sscan(string(b), &child)
		return err == nil && err2 == nil
	}, 20*time.Second, 5*time.Millisecond)
	cancel()
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	require.Eventually(t, func() bool { return syscall.Kill(child, 0) != nil || zombie(child) }, 20*time.Second, 5*time.Millisecond, "the command goes on")
	at, err := chronicled(t.Context(), s, "log")
	require.NoError(t, err)
	require.Equal(t, "data\n", content(t, s, at))
}

// zombie: nobody may wait for an orphan here.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestAChronicleIsNoOtherObject(t *testing.T) {
	p := teststore.Directory(t)
	s := open(t, p)
	for name, held := range map[string]string{"a dump": "CREATE TABLE t;\nINSERT", "a large one": strings.Repeat("x", 1<<20), "a path that leaves": "../../etc", "nothing": ""} {
		put(t, s, "log", held)
		_, _, err := run(t, nil, "chronicle", "pull", "-p", "{}", "-s", "log", "-")
		require.Error(t, err)
		_, _, err = run(t, nil, "chronicle", "pull", "-p", text(t, p), "-s", "log", "-")
		require.ErrorContains(t, err, "is no chronicle", name)
		require.Equal(t, 64, code(err))
	}
}

func TestChronicleOverACutLine(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	s := open(t, server.Profile)
	h := chronicle1(t, server.Profile, "log", "echo first")
	require.NoError(t, h.push(t.Context()))
	h.command = "head -c 40000000 /dev/zero"
	server.Line.CutAfter(10 << 20)
	err := h.push(t.Context())
	require.Equal(t, fault.Transient, fault.Of(err), "%v", err)
	server.Line.Mend()
	require.Equal(t, []string{"log", "log-0"}, names(t, s))
	require.Equal(t, "first\n", content(t, s, "log-0"))
}
