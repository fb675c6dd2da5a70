package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"thaw/activities/kando"
	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

// stdio is the argument that stands for the standard input or output.
const stdio = "-"

func locationCommand() *cobra.Command {
	c := &cobra.Command{Use: "location", Short: "Push to a location, pull from it, delete in it"}
	at := &place{}
	at.flags(c)
	c.AddCommand(at.push(), at.pull(), at.delete())
	return c
}

// place is where in a location a command works.
type place struct {
	path, profile string
	snapshot      string // --kopia-snapshot

	profiled templates.Profile
	name     string
}

func (p *place) flags(c *cobra.Command) {
	c.PersistentFlags().StringVarP(&p.path, "path", "s", "", "path below the profile's prefix (required)")
	c.PersistentFlags().StringVarP(&p.profile, "profile", "p", "", "the location profile, as JSON: '{{ toJson .Profile }}' (required)")
}

func (p *place) snapshotFlag(c *cobra.Command) {
	c.Flags().StringVarP(&p.snapshot, "kopia-snapshot", "k", "", "what a push with --output-name has put out")
}

// check reads the command line, and says all that is wrong with it.
func (p *place) check(args []string, want string, more ...error) error {
	errs := more
	if n := len(args); want == "" && n > 0 || want != "" && n != 1 {
		if want == "" {
			want = "none"
		}
		errs = append(errs, fmt.Errorf("%d arguments: want %s", n, want))
	}
	var err error
	if p.profiled, err = parseProfile([]byte(p.profile)); err != nil {
		errs = append(errs, fmt.Errorf("--profile: %w", err))
	}
	if p.name, err = nameOf(p.path); err != nil {
		errs = append(errs, fmt.Errorf("--path: %w", err))
	}
	if err := p.checkSnapshot(); err != nil {
		errs = append(errs, fmt.Errorf("--kopia-snapshot: %w", err))
	}
	return wrong(errs)
}

// wrong makes one error of what is wrong with a command line.
func wrong(errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return withCode(fault.New(fault.User, "the command line is wrong:\n%w", err))
	}
	return nil
}

// nameOf is an object's name below the location's prefix. Kanister joins both
// as paths, so a slash before it, or two in it, say nothing.
func nameOf(p string) (string, error) {
	name := path.Clean(strings.TrimLeft(p, "/"))
	switch {
	case name == ".":
		return "", errors.New("it is empty: it would be all of the location; name what is meant")
	case name == "..", strings.HasPrefix(name, "../"):
		return "", fmt.Errorf("%q leaves the location", p)
	}
	return name, nil
}

func (p *place) open(ctx context.Context) (location.Store, error) {
	return location.Open(ctx, p.profiled)
}

// snapshotInfo is what a push puts out under a name of the author's: in
// Kanister the Kopia snapshot in which it keeps the data of a profile of type
// kopia. Blueprints for that hand it back to pull and delete.
type snapshotInfo struct {
	ID           string `json:"id"` // the object's name
	LogicalSize  int64  `json:"logicalSize"`
	PhysicalSize int64  `json:"physicalSize"`
}

// checkSnapshot refuses a snapshot of Kopia: what is at the path is not what
// was meant, and a delete that finds nothing there would leave it. Other texts
// mean nothing where the location is a store, in Kanister neither.
func (p *place) checkSnapshot() error {
	var s snapshotInfo
	if err := json.Unmarshal([]byte(p.snapshot), &s); err != nil {
		s.ID = "" // such as "<no value>"
	}
	if s.ID == "" || s.ID == p.name {
		return nil
	}
	return errors.New("it is not of this path: it is a Kopia snapshot behind Kopia's API server, which Thaw does not read, or another push's")
}

func (p *place) push() *cobra.Command {
	const outputName = "output-name"
	var output string
	c := &cobra.Command{
		Use: "push SOURCE", Short: "Push a file, or what comes by the standard input (-)",
		Long: `Push a file, or what comes by the standard input (-), to a path of a location. It is
there whole, or not at all. That the command before the pipe has failed kando cannot
see: begin the script with "set -o pipefail".

With --output-name it puts out {"id":PATH,"logicalSize":BYTES,"physicalSize":BYTES}
under that name. Without, it puts nothing out.`,
		RunE: func(c *cobra.Command, args []string) error {
			var bad []error
			if err := kando.Print(io.Discard, output, ""); err != nil {
				bad = append(bad, fmt.Errorf("--%s: %w", outputName, err))
			}
			if err := p.check(args, "one, the file to push or -", bad...); err != nil {
				return err
			}
			in, err := source(c, args[0])
			if err != nil {
				return withCode(fault.New(fault.User, "location push: %w", err))
			}
			defer func() { _ = in.Close() }()
			o, err := p.put(c.Context(), in)
			if err != nil {
				return withCode(fmt.Errorf("location push: %w", err))
			}
			log := logger(c)
			if o.Size == 0 {
				log.Warn("nothing was read: an object of 0 bytes was stored; check the command before the pipe", "path", p.name)
			}
			log.Info("pushed", "path", p.name, "bytes", o.Size)
			if !c.Flags().Changed(outputName) {
				return nil
			}
			info, err := json.Marshal(snapshotInfo{p.name, o.Size, o.Size})
			if err != nil {
				return err
			}
			return kando.Print(c.OutOrStdout(), output, string(info))
		},
	}
	c.Flags().StringVarP(&output, outputName, "o", "kandoOutput", "put out, under this name, what was stored")
	return c
}

func (p *place) put(ctx context.Context, r io.Reader) (o location.Object, err error) {
	store, err := p.open(ctx)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return store.Put(ctx, p.name, r, location.PutOptions{})
}

// source opens what is to be pushed.
func source(c *cobra.Command, name string) (io.ReadCloser, error) {
	if name != stdio {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		if st, err := f.Stat(); err == nil && st.IsDir() {
			f.Close()
			return nil, fmt.Errorf("%s is a directory: pipe an archive of it (tar c %[1]s | kando location push … -)", name)
		}
		return f, nil
	}
	if f, ok := c.InOrStdin().(*os.File); ok {
		if st, err := f.Stat(); err != nil || st.Mode()&fs.ModeCharDevice != 0 {
			return nil, errors.New("nothing is piped into the standard input: put a command and | before kando")
		}
	}
	return interruptible(c.Context(), c.InOrStdin()), nil
}

// interruptible reads r until ctx ends: a read of a pipe would wait for ever.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { _ = out.CloseWithError(context.Cause(ctx)) })
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{in}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		_ = in.CloseWithError(err)
	}()
	return out
}

func (p *place) pull() *cobra.Command {
	c := p.pulling("location pull", "Pull what is at a path", fetch)
	p.snapshotFlag(c)
	return c
}

// pulling is a command that writes what get finds at the path.
func (p *place) pulling(name, what string, get func(ctx context.Context, s location.Store, at, target string, stdout io.Writer) error) *cobra.Command {
	return &cobra.Command{
		Use: "pull TARGET", Short: what + " into a file, or to the standard output (-)",
		RunE: func(c *cobra.Command, args []string) error {
			err := p.check(args, "one, the file to write or -")
			if err != nil {
				return err
			}
			store, err := p.open(c.Context())
			if err == nil {
				err = errors.Join(get(c.Context(), store, p.name, args[0], c.OutOrStdout()), store.Close())
			}
			if err != nil {
				return withCode(fmt.Errorf("%s: %w", name, err))
			}
			return nil
		},
	}
}

// fetch writes an object to a target.
func fetch(ctx context.Context, store location.Store, name, target string, stdout io.Writer) error {
	r, err := store.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	if target == stdio {
		w := bufio.NewWriterSize(stdout, 256<<10)
		if err := copyTo(w, r); err != nil {
			return err
		}
		return notWritten(stdio, w.Flush())
	}
	return toFile(target, r)
}

// toFile writes a file beside its place, and puts it there when it is whole.
func toFile(target string, r io.Reader) (err error) {
	if to, err := filepath.EvalSymlinks(target); err == nil {
		target = to
	}
	mode := fs.FileMode(0o644)
	switch st, err := os.Stat(target); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return notWritten(target, err)
	case !st.Mode().IsRegular(): // a device, a pipe
		f, err := os.OpenFile(target, os.O_WRONLY, 0)
		if err != nil {
			return notWritten(target, err)
		}
		return errors.Join(copyTo(f, r), notWritten(target, f.Close()))
	default:
		mode = st.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(target), "."+filepath.Base(target)+".*")
	if err != nil {
		return notWritten(target, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := copyTo(f, r); err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return notWritten(target, err)
	}
	return notWritten(target, os.Rename(f.Name(), target))
}

// copyTo copies, and tells an error of the reader, which is a store's and says
// what it is, from one of the writer.
func copyTo(w io.Writer, r io.Reader) error {
	in := &remembers{Reader: r}
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, in, make([]byte, 256<<10))
	if err != nil && in.err == nil {
		return notWritten("the output", err)
	}
	return err
}

type remembers struct {
	io.Reader
	err error
}

func (r *remembers) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && err != io.EOF { // an end is io.EOF itself
		r.err = err
	}
	return n, err
}

func notWritten(what string, err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Command, "write %s: %w", what, err)
}

func (p *place) delete() *cobra.Command {
	c := &cobra.Command{
		Use: "delete", Short: "Delete what is at a path, and below it",
		Long: `Delete what is at a path, and below it: "db/1" is "db/1/dump", and not "db/10", which
Kanister would delete too. It is content where there is nothing.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := p.check(args, ""); err != nil {
				return err
			}
			n, err := p.remove(c.Context())
			logger(c).Log(c.Context(), deletedLevel(n), "deleted", "path", p.name, "objects", n)
			if err != nil {
				return withCode(fmt.Errorf("location delete: %w", err))
			}
			return nil
		},
	}
	p.snapshotFlag(c)
	return c
}

// deletedLevel: that a delete took more than the one object which a push has
// made, or none, is worth a line.
func deletedLevel(n int) slog.Level {
	if n == 1 {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// remove deletes what is at the path and below, and says how many objects went.
func (p *place) remove(ctx context.Context) (n int, err error) {
	store, err := p.open(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	// The data of a chronicle is beside its name.
	if data, err := chronicled(ctx, store, p.name); err == nil {
		if at, err := nameOf(data); err == nil && numbered(at, p.name) {
			if n, err = location.Remove(ctx, store, at, func(string) {}); err != nil {
				return n, err
			}
		}
	}
	more, err := location.Remove(ctx, store, p.name, func(string) {})
	return n + more, err
}
