package location_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// transient holds of what the network did.
func transient(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, fault.Transient, fault.Of(err), "%v", err)
	require.NotContains(t, err.Error(), teststore.Secret)
}

func testNetwork(t *testing.T, p templates.Profile, server *teststore.Server) {
	ctx, line := t.Context(), server.Line
	const big = 40 << 20
	s := open(t, p)
	defer line.Mend()

	_, err := s.Put(ctx, "net/big", stream(big), location.PutOptions{})
	require.NoError(t, err)

	t.Run("a get goes on where it broke", func(t *testing.T) {
		r, err := s.Get(ctx, "net/big", 1000, -1)
		require.NoError(t, err)
		defer r.Close()
		want := stream(big)
		_, err = io.CopyN(io.Discard, want, 1000)
		require.NoError(t, err)
		for range 3 {
			a := sum(t, io.LimitReader(want, 8<<20))
			require.Equal(t, a, sum(t, io.LimitReader(r, 8<<20)))
			line.Break() // with more under way than buffers hold
		}
		require.Equal(t, sum(t, want), sum(t, r))
	})
	t.Run("a get does not mix two objects", func(t *testing.T) {
		_, err := s.Put(ctx, "net/changes", stream(big), location.PutOptions{})
		require.NoError(t, err)
		r, err := s.Get(ctx, "net/changes", 0, -1)
		require.NoError(t, err)
		defer r.Close()
		_, err = io.CopyN(io.Discard, r, 1<<20)
		require.NoError(t, err)
		_, err = s.Put(ctx, "net/changes", stream(big-1), location.PutOptions{})
		require.NoError(t, err)
		line.Break()
		_, err = io.Copy(io.Discard, r)
		require.Error(t, err)
		require.Equal(t, fault.Permanent, fault.Of(err), "%v", err)
	})
	t.Run("a get ends where the network stays away", func(t *testing.T) {
		r, err := s.Get(ctx, "net/big", 0, -1)
		require.NoError(t, err)
		defer r.Close()
		line.CutAfter(8 << 20)
		_, err = io.Copy(io.Discard, r)
		transient(t, err)
		line.Mend()
		_, err = s.Get(ctx, "net/none", 0, -1)
		require.ErrorIs(t, err, location.ErrNotFound)
	})
	t.Run("a put goes on after a break", func(t *testing.T) {
		again, err := io.ReadAll(stream(20 << 20)) // in one request
		require.NoError(t, err)
		for _, c := range []struct {
			in          io.Reader
			size, known int64
		}{{stream(big), big, 0}, {stream(big), big, big}, {bytes.NewReader(again), 20 << 20, 20 << 20}} {
			line.BreakAfter(c.size / 2)
			o, err := s.Put(ctx, "net/put", c.in, location.PutOptions{Size: c.known, New: true})
			require.NoError(t, err)
			require.Equal(t, c.size, o.Size)
			r, err := s.Get(ctx, "net/put", 0, -1)
			require.NoError(t, err)
			require.Equal(t, sum(t, stream(c.size)), sum(t, r))
			require.NoError(t, r.Close())
			require.NoError(t, s.Delete(ctx, "net/put"))
		}
	})
	t.Run("an answer that is lost is no other's object", func(t *testing.T) {
		// Wherever the break comes: in the request, between, or in the answer.
		for after := int64(50); after < 2500; after += 150 {
			line.BreakAfter(after)
			_, err := s.Put(ctx, "net/lost", stream(100), location.PutOptions{New: true})
			require.NoError(t, err, "after %d bytes", after)
			line.Mend()
			require.NoError(t, s.Delete(ctx, "net/lost"))
		}
	})
	t.Run("a put leaves nothing where the network stays away", func(t *testing.T) {
		for _, after := range []int64{100, 4 << 20, 20 << 20} {
			line.CutAfter(after)
			_, err := s.Put(ctx, "net/cut", stream(big), location.PutOptions{})
			transient(t, err)
			line.Mend()
			_, err = s.Stat(ctx, "net/cut")
			require.ErrorIs(t, err, location.ErrNotFound)
		}
	})
	t.Run("list, stat and delete", func(t *testing.T) {
		for _, n := range []string{"net/l1", "net/l2"} {
			put(t, s, n, n)
		}
		line.BreakAfter(200)
		require.Equal(t, []string{"net/l1", "net/l2"}, names(t, s, "net/l"))
		line.Cut()
		transient(t, s.List(ctx, "net/l", func(location.Object) error { return nil }))
		_, err := s.Stat(ctx, "net/l1")
		transient(t, err)
		transient(t, s.Delete(ctx, "net/l1"))
		_, err = s.Get(ctx, "net/l1", 0, -1)
		transient(t, err)
		line.Mend()
		require.Equal(t, []string{"net/l1", "net/l2"}, names(t, s, "net/l"))
		line.BreakAfter(200)
		require.NoError(t, s.Delete(ctx, "net/l1"))
		line.Mend()
		require.NoError(t, s.Delete(ctx, "net/l2"))
	})
	for _, n := range names(t, s, "net/") {
		require.NoError(t, s.Delete(ctx, n))
	}
}

func testKilled(t *testing.T, s location.Store, server *teststore.Server) {
	put(t, s, "killed/before", "1")
	// The stores for which we speak keep what they confirm; azurite, which
	// stands for one of them, does so after seconds.
	server.Settle("killed/before")
	server.Kill()
	_, err := s.Put(t.Context(), "killed/meanwhile", stream(100), location.PutOptions{})
	transient(t, err)
	server.Start()
	put(t, s, "killed/after", "2")
	require.Equal(t, "2", read(t, s, "killed/after", 0, -1))
	require.Equal(t, "1", read(t, s, "killed/before", 0, -1))
	require.Equal(t, []string{"killed/after", "killed/before"}, names(t, s, "killed/"))
}

func testMissingBucket(t *testing.T, p templates.Profile) {
	p.Location.Bucket = "nobodys-bucket"
	s := open(t, p)
	all := map[string]error{}
	_, all["get"] = s.Get(t.Context(), "x", 0, -1)
	_, all["stat"] = s.Stat(t.Context(), "x")
	_, all["put"] = s.Put(t.Context(), "x", stream(10), location.PutOptions{})
	_, all["put in parts"] = s.Put(t.Context(), "x", stream(20<<20), location.PutOptions{})
	all["list"] = s.List(t.Context(), "", func(location.Object) error { return nil })
	all["delete"] = s.Delete(t.Context(), "x")
	for verb, err := range all {
		require.ErrorContains(t, err, "bucket does not exist", verb)
		require.Equal(t, fault.User, fault.Of(err), verb)
		require.NotErrorIs(t, err, location.ErrNotFound, verb)
	}
}
