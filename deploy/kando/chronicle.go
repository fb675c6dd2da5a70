package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/fault"
	"thaw/internal/location"
)

func chronicle() *cobra.Command {
	c := &cobra.Command{Use: "chronicle", Short: "Push what a command prints again and again, and pull the last of it"}
	c.AddCommand(chroniclePush(), chroniclePull())
	return c
}

// chronicler pushes what a command prints. The artifact's path holds the name
// of the object that has the last of it, which is the path with a number.
type chronicler struct {
	profile, artifact, env string // files
	every                  time.Duration
	command                string
	log                    *slog.Logger
	stderr                 io.Writer
}

func chroniclePush() *cobra.Command {
	h := &chronicler{}
	c := &cobra.Command{
		Use: "push COMMAND...", Short: "Push what a command prints, every so often, until a signal",
		Long: `Push what a command prints, every so often, until a signal. Profile and path are read
from files anew each time; while one of the files is missing, nothing is pushed. A
command that fails leaves the last good push as it is, and ends this.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := h.check(args); err != nil {
				return err
			}
			h.command, h.log, h.stderr = strings.Join(args, " "), logger(c), c.ErrOrStderr()
			if err := h.run(c.Context()); err != nil && c.Context().Err() == nil {
				return withCode(fmt.Errorf("chronicle push: %w", err))
			}
			return nil // a signal is its customary end
		},
	}
	f := c.PersistentFlags()
	f.StringVarP(&h.profile, "profile-path", "p", "", "file with the location profile as JSON (required)")
	f.StringVarP(&h.artifact, "artifact-path", "s", "", "file with the path below the profile's prefix (required)")
	f.StringVarP(&h.env, "env-dir", "e", "", "directory with a file for each variable of the command's environment")
	f.DurationVarP(&h.every, "frequency", "f", time.Minute, "time from one start to the next")
	return c
}

func (h *chronicler) check(args []string) error {
	var bad []error
	if len(args) == 0 {
		bad = append(bad, errors.New("no command: write what prints the data"))
	}
	if h.profile == "" {
		bad = append(bad, errors.New("--profile-path: it is empty: name the file with the profile"))
	}
	if h.artifact == "" {
		bad = append(bad, errors.New("--artifact-path: it is empty: name the file with the path"))
	}
	if h.every < 0 {
		bad = append(bad, fmt.Errorf("--frequency: %s is negative", h.every))
	}
	return wrong(bad)
}

func (h *chronicler) run(ctx context.Context) error {
	for {
		start := time.Now()
		if err := h.push(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(h.every - time.Since(start)):
		}
	}
}

// push pushes once. Order: the data, then the name of it, then the end of the
// data before. Whoever reads at any time finds a whole one.
func (h *chronicler) push(ctx context.Context) (err error) {
	text, err := os.ReadFile(h.profile)
	if errors.Is(err, fs.ErrNotExist) {
		h.log.Info("there is no profile yet: nothing is pushed", "file", h.profile)
		return nil
	}
	if err != nil {
		return fault.New(fault.User, "%w", err)
	}
	p, err := parseProfile(text)
	if err != nil {
		return fault.New(fault.User, "profile %s: %w", h.profile, err)
	}
	text, err = os.ReadFile(h.artifact)
	if errors.Is(err, fs.ErrNotExist) {
		h.log.Info("there is no path yet: nothing is pushed", "file", h.artifact)
		return nil
	}
	if err != nil {
		return fault.New(fault.User, "%w", err)
	}
	artifact := strings.TrimSpace(string(text))
	name, err := nameOf(artifact)
	if err != nil {
		return fault.New(fault.User, "path in %s: %w", h.artifact, err)
	}
	env, err := environment(h.env)
	if err != nil {
		return err
	}
	store, err := location.Open(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	last, err := chronicled(ctx, store, name)
	if err != nil && !errors.Is(err, location.ErrNotFound) {
		return err
	}
	next := 0
	if number, ok := strings.CutPrefix(last, artifact+"-"); ok {
		if n, err := strconv.Atoi(number); err == nil && n >= 0 {
			next = n + 1
		}
	}
	data := fmt.Sprintf("%s-%d", artifact, next)
	at, err := nameOf(data)
	if err != nil {
		return err
	}
	n, err := h.output(ctx, env, func(ctx context.Context, r io.Reader) (int64, error) {
		o, err := store.Put(ctx, at, r, location.PutOptions{})
		return o.Size, err
	})
	if err != nil {
		return err
	}
	if _, err := store.Put(ctx, name, strings.NewReader(data), location.PutOptions{}); err != nil {
		return err
	}
	h.log.Info("pushed", "path", at, "bytes", n)
	if old, err := nameOf(last); last != "" && last != data && err == nil {
		if err := store.Delete(ctx, old); err != nil {
			h.log.Warn("the data before stays, though nothing names it any more", "path", old, "error", err)
		}
	}
	return nil
}

// output runs the command, and hands what it prints to put. A command that
// fails ends its output with an error, so that nothing is kept of it.
func (h *chronicler) output(ctx context.Context, env []string, put func(context.Context, io.Reader) (int64, error)) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", h.command)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), h.stderr
	// All of the command, not only its shell.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return 0, fault.New(fault.Command, "start the command: %w", err)
	}
	out := &printed{Reader: stdout, wait: cmd.Wait}
	n, err := put(ctx, out)
	if !out.ended {
		cancel()
		_ = cmd.Wait()
	}
	return n, err
}

// printed is what a command prints; its end is an error where the command's is.
type printed struct {
	io.Reader
	wait  func() error
	ended bool
	err   error // from its end on
}

func (p *printed) Read(b []byte) (int, error) {
	if p.ended {
		return 0, p.err
	}
	n, err := p.Reader.Read(b)
	if err == io.EOF { //nolint:errorlint // the end itself
		if werr := p.wait(); werr != nil {
			err = fault.New(fault.Command, "the command failed: %w; its own words are above", werr)
		}
		p.ended, p.err = true, err
	}
	return n, err
}

// environment reads a directory with a file for each variable. The files may
// be links, as those of a Secret's volume are, whose own names begin with two
// dots. There is none where the directory is not there.
func environment(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.New(fault.User, "--env-dir: %w", err)
	}
	var env []string
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		st, err := os.Stat(file)
		if strings.HasPrefix(e.Name(), "..") || err == nil && !st.Mode().IsRegular() {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.New(fault.User, "--env-dir: %w", err)
		}
		env = append(env, e.Name()+"="+string(text))
	}
	return env, nil
}

// chronicled is the path of the last data, as the object at name says it.
func chronicled(ctx context.Context, store location.Store, name string) (string, error) {
	const most = 4 << 10
	r, err := store.Get(ctx, name, 0, -1)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return "", err
	}
	if len(b) > most || bytes.ContainsAny(b, "\n\x00") {
		return "", fault.New(fault.User, "%q at %s is no chronicle: it holds something else than a path", name, store)
	}
	return string(b), nil
}

// numbered reports whether a name is that of a chronicle's data.
func numbered(name, chronicle string) bool {
	number, ok := strings.CutPrefix(name, chronicle+"-")
	_, err := strconv.ParseUint(number, 10, 63)
	return ok && err == nil
}

func chroniclePull() *cobra.Command {
	p := &place{}
	c := p.pulling("chronicle pull", "Pull the last of a chronicle", fetchLast)
	p.flags(c)
	return c
}

// fetchLast writes the last of a chronicle to a target.
func fetchLast(ctx context.Context, store location.Store, chronicle, target string, stdout io.Writer) error {
	for try := 0; ; try++ {
		at, err := chronicled(ctx, store, chronicle)
		if err != nil {
			return err
		}
		name, err := nameOf(at)
		if err != nil {
			return fault.New(fault.User, "%q at %s is no chronicle: the path in it: %w", chronicle, store, err)
		}
		err = fetch(ctx, store, name, target, stdout)
		if errors.Is(err, location.ErrNotFound) && try < 3 {
			continue // a push came between
		}
		return err
	}
}
