package location_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// subject is a kind of store under the suite.
type subject struct {
	name string
	// start starts one; its server is nil where there is none.
	start func(t *testing.T) (templates.Profile, *teststore.Server)
}

var subjects = []subject{
	{"s3", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartS3(t, teststore.S3Options{})
		return s.Profile, s
	}},
	{"gcs", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartGCS(t)
		return s.Profile, s
	}},
	{"azure", func(t *testing.T) (templates.Profile, *teststore.Server) {
		s := teststore.StartAzure(t)
		return s.Profile, s
	}},
	{"directory", func(t *testing.T) (templates.Profile, *teststore.Server) {
		return teststore.Directory(t), nil
	}},
}

func open(t testing.TB, p templates.Profile) location.Store {
	t.Helper()
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// stream is n bytes of noise, the same for the same n, of no known length.
func stream(n int64) io.Reader {
	return struct{ io.Reader }{io.LimitReader(rand.NewChaCha8([32]byte{byte(n)}), n)}
}

func sum(t testing.TB, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	_, err := io.Copy(h, r)
	require.NoError(t, err)
	return string(h.Sum(nil))
}

func put(t testing.TB, s location.Store, name, content string) {
	t.Helper()
	_, err := s.Put(t.Context(), name, strings.NewReader(content), location.PutOptions{})
	require.NoError(t, err)
}

func read(t testing.TB, s location.Store, name string, offset, length int64) string {
	t.Helper()
	r, err := s.Get(t.Context(), name, offset, length)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(b)
}

func names(t testing.TB, s location.Store, prefix string) []string {
	t.Helper()
	got := []string{}
	require.NoError(t, s.List(t.Context(), prefix, func(o location.Object) error {
		got = append(got, o.Name)
		return nil
	}))
	return got
}

// TestStores is what every kind of store has to do.
func TestStores(t *testing.T) {
	for _, sub := range subjects {
		t.Run(sub.name, func(t *testing.T) {
			t.Parallel()
			p, server := sub.start(t)
			for _, prefix := range []string{"", "a/prefix"} {
				t.Run("prefix "+prefix, func(t *testing.T) {
					p := p
					p.Location.Prefix = prefix
					testObjects(t, open(t, p))
				})
			}
			t.Run("prefixes do not see each other", func(t *testing.T) { testPrefixes(t, p) })
			t.Run("streams", func(t *testing.T) { testStreams(t, open(t, p)) })
			t.Run("sources", func(t *testing.T) { testSources(t, open(t, p)) })
			t.Run("what fails leaves nothing", func(t *testing.T) { testNothingLeft(t, open(t, p)) })
			t.Run("one of many is new", func(t *testing.T) { testNew(t, open(t, p)) })
			if server != nil {
				t.Run("network", func(t *testing.T) { testNetwork(t, p, server) })
				t.Run("missing bucket", func(t *testing.T) { testMissingBucket(t, p) })
				t.Run("killed", func(t *testing.T) { testKilled(t, open(t, p), server) })
			}
		})
	}
}

func testObjects(t *testing.T, s location.Store) {
	ctx := t.Context()
	require.Empty(t, names(t, s, ""))

	o, err := s.Put(ctx, "dir/one", strings.NewReader("0123456789"), location.PutOptions{})
	require.NoError(t, err)
	require.Equal(t, "dir/one", o.Name)
	require.EqualValues(t, 10, o.Size)
	require.WithinDuration(t, time.Now(), o.Modified, time.Minute)

	st, err := s.Stat(ctx, "dir/one")
	require.NoError(t, err)
	require.Equal(t, "dir/one", st.Name)
	require.EqualValues(t, 10, st.Size)
	require.WithinDuration(t, time.Now(), st.Modified, time.Minute)

	require.Equal(t, "0123456789", read(t, s, "dir/one", 0, -1))
	require.Equal(t, "3456", read(t, s, "dir/one", 3, 4))
	require.Equal(t, "89", read(t, s, "dir/one", 8, -1))
	require.Equal(t, "89", read(t, s, "dir/one", 8, 2))
	require.Equal(t, "", read(t, s, "dir/one", 10, -1))
	require.Equal(t, "", read(t, s, "dir/one", 5, 0))
	for _, bad := range [][2]int64{{11, -1}, {11, 0}, {8, 3}, {10, 1}, {100, 1}} {
		_, err := s.Get(ctx, "dir/one", bad[0], bad[1])
		require.ErrorIs(t, err, location.ErrRange, "%v", bad)
		require.Equal(t, fault.Permanent, fault.Of(err))
	}
	_, err = s.Get(ctx, "dir/one", -1, 1)
	require.Equal(t, fault.User, fault.Of(err))

	_, err = s.Put(ctx, "dir/one", iotest.OneByteReader(strings.NewReader("again")), location.PutOptions{Size: 5})
	require.NoError(t, err)
	require.Equal(t, "again", read(t, s, "dir/one", 0, -1))

	put(t, s, "dir/empty", "")
	require.Equal(t, "", read(t, s, "dir/empty", 0, -1))
	_, err = s.Get(ctx, "dir/empty", 0, 1)
	require.ErrorIs(t, err, location.ErrRange)
	st, err = s.Stat(ctx, "dir/empty")
	require.NoError(t, err)
	require.Zero(t, st.Size)

	// In the order of their bytes, whatever the store's own order is.
	for _, n := range []string{"dir-b", "dir/sub/x", "dir.c", "dir/sub-y", "dirx", "Ä ö+&%3D?#'\"", "dir/s"} {
		put(t, s, n, n)
	}
	require.Equal(t, []string{"dir-b", "dir.c", "dir/empty", "dir/one", "dir/s", "dir/sub-y", "dir/sub/x", "dirx", "Ä ö+&%3D?#'\""}, names(t, s, ""))
	require.Equal(t, []string{"dir/empty", "dir/one", "dir/s", "dir/sub-y", "dir/sub/x"}, names(t, s, "dir/"))
	require.Equal(t, []string{"dir/s", "dir/sub-y", "dir/sub/x"}, names(t, s, "dir/s"))
	require.Equal(t, []string{"dir/sub/x"}, names(t, s, "dir/sub/"))
	require.Empty(t, names(t, s, "other"))
	require.Empty(t, names(t, s, "../"))
	require.Equal(t, "Ä ö+&%3D?#'\"", read(t, s, "Ä ö+&%3D?#'\"", 0, -1))
	stop := errors.New("enough")
	seen := 0
	require.Equal(t, stop, s.List(ctx, "", func(location.Object) error { seen++; return stop }))
	require.Equal(t, 1, seen)

	for _, n := range []string{"dir/none", "dir", "dir/one/below", "dir/sub"} {
		_, err = s.Stat(ctx, n)
		require.ErrorIs(t, err, location.ErrNotFound, n)
		require.Equal(t, fault.Permanent, fault.Of(err))
		require.ErrorContains(t, err, fmt.Sprintf("%q", n))
		require.ErrorContains(t, err, s.String())
		_, err = s.Get(ctx, n, 0, -1)
		require.ErrorIs(t, err, location.ErrNotFound, n)
		require.NoError(t, s.Delete(ctx, n), n)
	}
	for _, n := range []string{"", "/x", "x/", "a//b", "../x", "a/../../b", "a/./b", "x\x00y", "a\nb", "\xff", strings.Repeat("x", 901)} {
		_, err := s.Put(ctx, n, strings.NewReader("x"), location.PutOptions{})
		require.Error(t, err, "%q", n)
		require.Equal(t, fault.User, fault.Of(err), "%q", n)
	}
	require.NoError(t, s.Extend(ctx, "dir/one", time.Now().Add(time.Hour)), "nothing is locked here")

	for _, n := range names(t, s, "") {
		require.NoError(t, s.Delete(ctx, n))
		require.NoError(t, s.Delete(ctx, n))
	}
	require.Empty(t, names(t, s, ""))
}

func testPrefixes(t *testing.T, p templates.Profile) {
	one, two, three := p, p, p
	one.Location.Prefix, two.Location.Prefix, three.Location.Prefix = "p", "p2", "/p2/"
	put(t, open(t, one), "x", "1")
	put(t, open(t, two), "x", "2")
	require.Equal(t, []string{"x"}, names(t, open(t, one), ""))
	require.Equal(t, "1", read(t, open(t, one), "x", 0, -1))
	require.Equal(t, "2", read(t, open(t, three), "x", 0, -1))
	require.NoError(t, open(t, one).Delete(t.Context(), "x"))
	require.Equal(t, []string{"p2/x"}, names(t, open(t, p), ""))
	require.NoError(t, open(t, p).Delete(t.Context(), "p2/x"))
}

// sizes are those at which something changes.
var sizes = []int64{1, 32 << 10, 8<<20 - 1, 8 << 20, 8<<20 + 1, 16 << 20, 24<<20 + 7, 100 << 20}

func testStreams(t *testing.T, s location.Store) {
	for _, n := range sizes {
		for _, known := range []int64{0, n} {
			name := fmt.Sprintf("stream/%d-%d", n, known)
			o, err := s.Put(t.Context(), name, stream(n), location.PutOptions{Size: known})
			require.NoError(t, err)
			require.Equal(t, n, o.Size)
			r, err := s.Get(t.Context(), name, 0, -1)
			require.NoError(t, err)
			require.Equal(t, sum(t, stream(n)), sum(t, r), name)
			require.NoError(t, r.Close())
			if n > 8<<20 { // over the seam of two parts
				r, err := s.Get(t.Context(), name, 8<<20-100, 101)
				require.NoError(t, err)
				all := stream(n)
				_, err = io.CopyN(io.Discard, all, 8<<20-100)
				require.NoError(t, err)
				require.Equal(t, sum(t, io.LimitReader(all, 101)), sum(t, r))
				require.NoError(t, r.Close())
			}
			require.NoError(t, s.Delete(t.Context(), name))
		}
	}
}

// A source that can be read again is not kept in memory. One that only says so
// (a pipe is a file, too), or that is not at its beginning, is.
func testSources(t *testing.T, s location.Store) {
	const n = 9<<20 + 1
	content, err := io.ReadAll(stream(n))
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, content, 0o600))
	file, err := os.Open(name)
	require.NoError(t, err)
	defer file.Close()
	further := bytes.NewReader(append([]byte("before"), content...))
	_, err = further.Seek(6, io.SeekStart)
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	go func() {
		_, _ = w.Write(content)
		w.Close()
	}()
	for what, in := range map[string]io.Reader{"bytes": bytes.NewReader(content), "file": file, "further": further, "pipe": r} {
		o, err := s.Put(t.Context(), "sources/"+what, in, location.PutOptions{Size: n, New: true})
		require.NoError(t, err, what)
		require.EqualValues(t, n, o.Size, what)
		got, err := s.Get(t.Context(), "sources/"+what, 0, -1)
		require.NoError(t, err, what)
		require.Equal(t, sum(t, stream(n)), sum(t, got), what)
		require.NoError(t, got.Close())
		require.NoError(t, s.Delete(t.Context(), "sources/"+what))
	}
	for _, size := range []int64{n - 1, n + 1} {
		_, err := s.Put(t.Context(), "sources/wrong", bytes.NewReader(content), location.PutOptions{Size: size})
		require.ErrorContains(t, err, "announced")
	}
	require.Empty(t, names(t, s, "sources/"))
}

// failing gives n bytes, then runs end, then its error.
type failing struct {
	io.Reader
	end func() error
}

func failsAfter(n int64, end func() error) io.Reader { return &failing{stream(n), end} }

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.Reader.Read(b)
	if err == io.EOF {
		return n, f.end()
	}
	return n, err
}

func testNothingLeft(t *testing.T, s location.Store) {
	put(t, s, "left/old", "old")
	broken := fault.New(fault.Command, "the dump broke")
	for _, n := range []int64{0, 100, 9 << 20, 40 << 20} {
		for _, name := range []string{"left/new", "left/old"} {
			for _, only := range []bool{false, true} {
				if only && name == "left/old" {
					continue
				}
				what := fmt.Sprintf("%s after %d bytes, new %v", name, n, only)
				for _, bad := range []error{broken, io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
					_, err := s.Put(t.Context(), name, failsAfter(n, func() error { return bad }), location.PutOptions{New: only})
					require.ErrorIs(t, err, bad, what)
					require.Equal(t, fault.Of(bad), fault.Of(err), what)
				}
				ctx, cancel := context.WithCancel(t.Context())
				_, err := s.Put(ctx, name, failsAfter(n, func() error { cancel(); return nil }), location.PutOptions{New: only})
				require.ErrorIs(t, err, context.Canceled, what)
				_, err = s.Put(t.Context(), name, stream(n), location.PutOptions{New: only, Size: n + 1})
				require.ErrorContains(t, err, "announced", what)
				if n > 1 {
					_, err = s.Put(t.Context(), name, stream(n), location.PutOptions{New: only, Size: n - 1})
					require.ErrorContains(t, err, "announced", what)
				}
				require.Equal(t, []string{"left/old"}, names(t, s, "left/"), what)
			}
		}
	}
	require.Equal(t, "old", read(t, s, "left/old", 0, -1))
	require.NoError(t, s.Delete(t.Context(), "left/old"))
}

func testNew(t *testing.T, s location.Store) {
	for _, n := range []int64{10, 20 << 20} {
		name := fmt.Sprintf("new/%d", n)
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() {
				for { // another that writes at this moment is tried again
					_, errs[i] = s.Put(t.Context(), name, stream(n), location.PutOptions{New: true})
					if fault.Of(errs[i]) != fault.Transient {
						return
					}
				}
			})
		}
		wg.Wait()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			require.ErrorIs(t, err, location.ErrExists)
			require.Equal(t, fault.Permanent, fault.Of(err))
		}
		require.Equal(t, 1, won)
		r, err := s.Get(t.Context(), name, 0, -1)
		require.NoError(t, err)
		require.Equal(t, sum(t, stream(n)), sum(t, r))
		require.NoError(t, r.Close())
		require.NoError(t, s.Delete(t.Context(), name))
	}
	put(t, s, "new/x", "x")
	_, err := s.Put(t.Context(), "new/x", bytes.NewReader(nil), location.PutOptions{New: true})
	require.ErrorIs(t, err, location.ErrExists)
	require.NoError(t, s.Delete(t.Context(), "new/x"))
}
