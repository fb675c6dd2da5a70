package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"thaw/blueprints/fault"
)

// backend is a kind of store. Its keys are whole: the location's prefix is in
// them. Its errors are its client's own, and explain says what they mean, so
// that no client's text leaves the package unread.
type backend interface {
	// put leaves nothing where r fails or ctx ends. It reads r to io.EOF.
	put(ctx context.Context, key string, r io.Reader, o PutOptions) (modified time.Time, err error)
	// get opens one stream; with a version, of that very version.
	get(ctx context.Context, key string, offset, length int64, version string) (stream, error)
	stat(ctx context.Context, key string) (Object, error)
	delete(ctx context.Context, key string) error
	list(ctx context.Context, prefix string, each func(Object) error) error
	extend(ctx context.Context, key string, until time.Time) error
	explain(err error) cause
	close() error
}

// stream is an object's content, or a part of it.
type stream struct {
	body    io.ReadCloser
	version string // what tells that the object is still the same
	left    int64  // bytes to come
}

// store is a backend below a prefix, for people: it checks names, and its
// errors say what was done where, and what to do.
type store struct {
	backend
	url    string // names the bucket
	prefix string // without slashes around it
	secret []string
	locks  Lock
}

func (s *store) String() string {
	if s.prefix == "" {
		return s.url
	}
	return s.url + "/" + s.prefix
}

func (s *store) Lock() Lock { return s.locks }

func (s *store) Close() error { return s.close() }

func (s *store) key(name string) string {
	if s.prefix == "" {
		return name
	}
	return s.prefix + "/" + name
}

func (s *store) Put(ctx context.Context, name string, r io.Reader, o PutOptions) (Object, error) {
	if err := checkName(name); err != nil {
		return Object{}, s.fail(ctx, "put", name, err)
	}
	src := &source{ctx: ctx, r: r, want: o.Size}
	var in io.Reader = src
	if again, ok := r.(io.Seeker); ok && o.Size > 0 {
		if at, err := again.Seek(0, io.SeekCurrent); err == nil && at == 0 { // no pipe
			in = &rewound{src, again}
		}
	}
	modified, err := s.put(ctx, s.key(name), in, o)
	if src.err != nil { // the kind is the source's
		return Object{}, fmt.Errorf("put %q into %s: read what to put: %w", name, s, src.err)
	}
	if err != nil {
		return Object{}, s.fail(ctx, "put", name, err)
	}
	return Object{Name: name, Size: src.n, Modified: modified}, nil
}

func (s *store) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, s.fail(ctx, "get", name, err)
	}
	if offset < 0 {
		return nil, s.fail(ctx, "get", name, fault.New(fault.User, "the offset %d is negative", offset))
	}
	if length == 0 {
		o, err := s.stat(ctx, s.key(name))
		if err == nil && offset > o.Size {
			err = ErrRange
		}
		if err != nil {
			return nil, s.fail(ctx, "get", name, err)
		}
		return io.NopCloser(strings.NewReader("")), nil
	}
	r := &reader{store: s, ctx: ctx, name: name, at: offset, length: length}
	if err := r.open(); err != nil {
		// A store calls it a range outside where there is nothing to the end.
		if length < 0 && s.explain(err).is == ErrRange { //nolint:errorlint // a field, not a chain
			if o, serr := s.stat(ctx, s.key(name)); serr == nil && o.Size == offset {
				return io.NopCloser(strings.NewReader("")), nil
			}
		}
		return nil, s.fail(ctx, "get", name, err)
	}
	return r, nil
}

func (s *store) Stat(ctx context.Context, name string) (Object, error) {
	if err := checkOld(name); err != nil {
		return Object{}, s.fail(ctx, "look at", name, err)
	}
	o, err := s.stat(ctx, s.key(name))
	if err != nil {
		return Object{}, s.fail(ctx, "look at", name, err)
	}
	o.Name = name
	return o, nil
}

func (s *store) Delete(ctx context.Context, name string) error {
	err := checkOld(name)
	if err == nil {
		err = s.delete(ctx, s.key(name))
	}
	if err != nil && s.explain(err).is == ErrNotFound { //nolint:errorlint // a field, not a chain
		return nil
	}
	return s.fail(ctx, "delete", name, err)
}

func (s *store) List(ctx context.Context, prefix string, each func(Object) error) error {
	var stop error
	err := s.list(ctx, s.key(prefix), func(o Object) error {
		if s.prefix != "" {
			o.Name = strings.TrimPrefix(o.Name, s.prefix+"/")
		}
		if stop = ctx.Err(); stop == nil {
			if stop = each(o); stop != nil {
				return errStop
			}
			return nil
		}
		return stop
	})
	if errors.Is(err, errStop) {
		return stop
	}
	return s.fail(ctx, "list", prefix, err)
}

var errStop = errors.New("stop")

func (s *store) Extend(ctx context.Context, name string, until time.Time) error {
	err := checkName(name)
	if err == nil {
		err = s.extend(ctx, s.key(name), until)
	}
	return s.fail(ctx, "extend the lock of", name, err)
}

// fail makes the error of the Store. What a client said is read by explain and
// not wrapped: its text, and those below it, could hold a credential.
func (s *store) fail(ctx context.Context, verb, name string, err error) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf("%s %q at %s", verb, name, s)
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if ctx.Err() != nil {
		return fault.New(fault.Transient, "%s: %w", what, ctx.Err())
	}
	var f *fault.Error
	if errors.As(err, &f) { // one of ours
		return fault.New(f.Kind, "%s: %w", what, f)
	}
	c := s.explain(err)
	text := what + ": " + redacted(c.text, s.secret)
	if c.is != nil {
		return fault.New(c.kind, "%s: %w", text, c.is)
	}
	return fault.New(c.kind, "%s", text)
}

// source is what a Put reads. It remembers why it ended.
type source struct {
	ctx     context.Context //nolint:containedctx // that of the Put which reads it
	r       io.Reader
	n, want int64
	err     error
}

func (s *source) Read(b []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(b)
	s.n += int64(n)
	switch {
	case s.want > 0 && s.n > s.want, s.want > 0 && errors.Is(err, io.EOF) && s.n != s.want:
		s.err = fault.New(fault.Permanent, "it has %d bytes, where %d were announced", s.n, s.want)
	case err == io.EOF: // itself: one that wraps it is a failure
		return n, io.EOF
	case err != nil:
		s.err = err
	default:
		return n, nil
	}
	return n, s.err
}

// rewound is a source that can be read again, which saves a store to keep what
// it may have to send twice.
type rewound struct {
	*source
	seeker io.Seeker
}

func (w *rewound) Seek(offset int64, whence int) (int64, error) {
	at, err := w.seeker.Seek(offset, whence)
	if err == nil {
		w.n = at
	}
	return at, err
}

// checkName holds of names what every kind of store can keep.
func checkName(name string) error {
	if err := checkOld(name); err != nil {
		return err
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" {
			return fault.New(fault.User, "the name %q has an empty part: write it without a slash at its ends, and with one between parts", name)
		}
	}
	if strings.HasPrefix(name, partial+"/") || name == partial {
		return fault.New(fault.User, "the name %q is taken: %s is where a directory keeps what it is writing", name, partial)
	}
	return nil
}

// checkOld holds of names what others may have written besides.
func checkOld(name string) error {
	switch {
	case name == "":
		return fault.New(fault.User, "the name is empty")
	case len(name) > 900: // stores take 1024, with the prefix
		return fault.New(fault.User, "the name is %d bytes long: more than 900", len(name))
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fault.New(fault.User, "the name %q is no plain text", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return fault.New(fault.User, "the name %q leaves the location", name)
		}
	}
	return nil
}
