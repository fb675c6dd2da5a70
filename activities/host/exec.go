package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"thaw/activities/function"
	"thaw/activities/kando"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type execArgs struct {
	Command    []string          `arg:"command" doc:"command and its arguments; the command is an absolute path that the worker's configuration allows (exec.allow)"`
	Line       string            `arg:"line" doc:"the command in one line, in place of command: words are split at spaces, quotes keep them together; it is no shell"`
	Env        map[string]string `arg:"env" doc:"environment variables; never a secret"`
	SecretEnv  map[string]string `arg:"secretEnv" doc:"environment variables from secrets of the run: variable to secretName/key"`
	Stdin      string            `arg:"stdin" doc:"what it reads"`
	StdinFile  string            `arg:"stdinFile" doc:"file that it reads; .zst is decompressed"`
	StdoutFile string            `arg:"stdoutFile" doc:"file for what it prints, complete or not there at all; .zst is compressed. Without it, outputs in the kando protocol are read from what it prints"`
	Dir        string            `arg:"dir" default:"/" doc:"working directory"`
	RunAs      string            `arg:"runAs" doc:"user, or user:group, to run it as; needs a worker that runs as root"`
}

// execute is Exec. It is not idempotent by itself: say so of the phase where
// its command is. When its time is over, the command and all that it started
// are ended.
func execute(cfg Config) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "Exec", Family: family,
		Summary: "Run a command on the worker's host, of those that its configuration allows. Its environment is empty but for PATH, HOME, LANG and what is given.",
		Outputs: []catalogue.Output{
			{Name: "file", Description: "the file given as stdoutFile"},
			{Name: "bytes", Description: "its size"},
			{Name: "sha256", Description: "its SHA-256, in hex"},
		},
		OpenOutputs: true,
		Timeout:     15 * time.Minute,
	}, func(ctx context.Context, env *function.Env, a execArgs) (function.Act, func(), error) {
		c := &command{execArgs: a, fn: env}
		if err := c.prepare(ctx, cfg); err != nil {
			return nil, nil, err
		}
		return c.run, nil, nil
	})
}

type command struct {
	execArgs
	fn    *function.Env
	env   []string
	owner *ownership
}

func (c *command) prepare(ctx context.Context, cfg Config) error {
	if c.Line != "" {
		if len(c.Command) > 0 {
			return fault.New(fault.User, "exec: command and line exclude each other")
		}
		words, err := splitWords(c.Line)
		if err != nil {
			return fault.New(fault.User, "exec: line: %w", err)
		}
		c.Command = words
	}
	if len(c.Command) == 0 || c.Command[0] == "" {
		return fault.New(fault.User, "exec: give command, or line")
	}
	name := filepath.Clean(c.Command[0])
	if !filepath.IsAbs(name) {
		return fault.New(fault.User, "exec %s: give the absolute path; PATH is not searched, since what it finds may change", c.Command[0])
	}
	if !cfg.allows(name) {
		return fault.New(fault.User, "exec %s: this worker may not run it; add it to exec.allow in the worker's configuration, as an absolute path", name)
	}
	info, err := os.Stat(name)
	if err != nil {
		return fault.New(fault.User, "exec: %w", err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fault.New(fault.User, "exec %s: it is not executable", name)
	}
	for what, p := range map[string]string{"dir": c.Dir, "stdinFile": c.StdinFile, "stdoutFile": c.StdoutFile} {
		if p == "" {
			continue
		}
		if err := absolute("exec "+name+": "+what, p); err != nil {
			return err
		}
	}
	if c.Stdin != "" && c.StdinFile != "" {
		return fault.New(fault.User, "exec %s: stdin and stdinFile exclude each other", name)
	}
	if c.owner, err = parseOwner(c.RunAs); err != nil {
		return fmt.Errorf("exec %s: runAs: %w", name, err)
	}
	if c.owner != nil && os.Geteuid() != 0 && c.owner.uid != os.Geteuid() {
		return fault.New(fault.User, "exec %s: runAs %s needs a worker that runs as root", name, c.RunAs)
	}
	return c.environment(ctx)
}

func (cfg Config) allows(name string) bool {
	return slices.ContainsFunc(cfg.Allow, func(pattern string) bool {
		if !strings.HasPrefix(pattern, "/") {
			return false
		}
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// environment is made anew: the worker's own may hold its secrets.
func (c *command) environment(ctx context.Context) error {
	home := "/"
	if c.owner != nil {
		home = c.owner.home
	}
	vars := map[string]string{"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": home, "LANG": "C.UTF-8"}
	maps.Copy(vars, c.Env)
	for name, ref := range c.SecretEnv {
		v, err := function.SecretKey(ctx, c.fn, ref)
		if err != nil {
			return fmt.Errorf("exec %s: secretEnv %s: %w", c.Command[0], name, err)
		}
		vars[name] = v
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(vars[name], "\x00") {
			return fault.New(fault.User, "exec %s: %q is no environment variable", c.Command[0], name)
		}
		c.env = append(c.env, name+"="+vars[name])
	}
	return nil
}

// grace is how long a command may take to end when it is asked to.
const grace = 10 * time.Second

func (c *command) run(ctx context.Context) (function.Outputs, error) {
	name := c.Command[0]
	cmd := exec.CommandContext(ctx, name, c.Command[1:]...)
	cmd.Dir, cmd.Env = c.Dir, c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.owner != nil && os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(c.owner.uid), Gid: uint32(c.owner.gid), Groups: c.owner.groups}
	}
	// The whole group: a shell's children would go on, and hold its output.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	stderr := &kando.Tail{Redact: c.fn.Redact}
	cmd.Stderr = stderr
	closeIn, err := c.input(cmd)
	if err != nil {
		return nil, fmt.Errorf("exec %s: %w", name, classify(err))
	}
	defer closeIn()
	sink, err := c.output(cmd)
	if err != nil {
		return nil, fmt.Errorf("exec %s: %w", name, classify(err))
	}
	defer sink.discard()
	err = cmd.Run()
	if cmd.Process != nil && (err != nil || ctx.Err() != nil) {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if err := c.failure(ctx, err, stderr); err != nil {
		return nil, err
	}
	out, err := sink.finish()
	if err != nil {
		return nil, fmt.Errorf("exec %s: %w", name, err)
	}
	return out, nil
}

func (c *command) failure(ctx context.Context, err error, stderr *kando.Tail) error {
	name := c.Command[0]
	tail := ""
	if s := stderr.String(); s != "" {
		tail = ": " + s
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fault.New(fault.Unknown, "exec %s: ended, with all that it started: %w%s", name, context.Cause(ctx), tail)
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.Exited():
		return fault.New(fault.Command, "exec %s: exit code %d%s", name, exit.ExitCode(), tail)
	case errors.As(err, &exit):
		return fault.New(fault.Command, "exec %s: ended by %s%s", name, exit.ProcessState, tail)
	case errors.Is(err, exec.ErrWaitDelay):
		return fault.New(fault.Command, "exec %s: it ended, but what it started holds its output", name)
	}
	return fault.New(fault.Transient, "exec %s: %w", name, err)
}

func (c *command) input(cmd *exec.Cmd) (done func(), err error) {
	switch {
	case c.Stdin != "":
		cmd.Stdin = strings.NewReader(c.Stdin)
	case c.StdinFile != "":
		f, err := os.Open(c.StdinFile)
		if err != nil {
			return nil, err
		}
		cmd.Stdin = f
		if strings.HasSuffix(c.StdinFile, ".zst") {
			z, err := zstd.NewReader(f)
			if err != nil {
				f.Close()
				return nil, err
			}
			cmd.Stdin = z
			return func() { z.Close(); f.Close() }, nil
		}
		return func() { f.Close() }, nil
	}
	return func() {}, nil
}

// sink is where standard output goes.
type sink interface {
	finish() (function.Outputs, error)
	discard()
}

func (c *command) output(cmd *exec.Cmd) (sink, error) {
	if c.StdoutFile == "" {
		p := &kando.Parser{Line: func(l []byte) {
			if len(l) >= kando.MaxLine { // cut, and a secret in it perhaps with it
				l = []byte("(a line of more than 4 KiB)")
			}
			c.fn.Log.Debug("command output", "command", c.Command[0], "line", string(l))
		}}
		cmd.Stdout = p
		return kandoSink{p}, nil
	}
	if err := os.MkdirAll(filepath.Dir(c.StdoutFile), 0o700); err != nil {
		return nil, err
	}
	s := &fileSink{path: c.StdoutFile}
	var err error
	if s.f, err = os.OpenFile(s.path+".partial", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	s.stored = countWriter{w: io.MultiWriter(s.f, &s.sum)}
	cmd.Stdout = &s.stored
	s.sum.h = sha256.New()
	if strings.HasSuffix(s.path, ".zst") {
		if s.z, err = zstd.NewWriter(&s.stored); err != nil {
			s.discard()
			return nil, err
		}
		cmd.Stdout = s.z
	}
	return s, nil
}

type kandoSink struct{ p *kando.Parser }

func (s kandoSink) finish() (function.Outputs, error) {
	out, err := s.p.Close()
	if err != nil {
		return nil, fault.New(fault.Command, "it ran, but its outputs cannot be read: %w", err)
	}
	return out, nil
}

func (kandoSink) discard() {}

// fileSink writes a file that has its name only when it is complete and on
// disk.
type fileSink struct {
	path   string
	f      *os.File
	z      *zstd.Encoder
	stored countWriter
	sum    hashWriter
	done   bool
}

type hashWriter struct {
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (w *hashWriter) Write(b []byte) (int, error) { return w.h.Write(b) }

func (s *fileSink) finish() (function.Outputs, error) {
	if s.z != nil {
		if err := s.z.Close(); err != nil {
			return nil, classify(err)
		}
	}
	if err := s.f.Sync(); err != nil {
		return nil, classify(err)
	}
	if err := s.f.Close(); err != nil {
		return nil, classify(err)
	}
	if err := os.Rename(s.f.Name(), s.path); err != nil {
		return nil, classify(err)
	}
	s.done = true
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		return nil, classify(err)
	}
	return function.Outputs{"file": s.path, "bytes": s.stored.n, "sha256": hex.EncodeToString(s.sum.h.Sum(nil))}, nil
}

func (s *fileSink) discard() {
	if !s.done {
		s.f.Close()
		os.Remove(s.f.Name())
	}
}
