package points

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// Whatever is done to a record or its seal, whoever has the key is told by the
// object's name, and reads nothing of it.
func TestARecordThatDoesNotFitItsSealIsRefusedByName(t *testing.T) {
	const record, seal = "restorepoints/shop-1/restorepoint.json", "restorepoints/shop-1/restorepoint.seal"
	get := func(t *testing.T, s location.Store, name string) []byte {
		r, err := s.Get(t.Context(), name, 0, -1)
		require.NoError(t, err)
		defer r.Close()
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		return b
	}
	put := func(t *testing.T, s location.Store, name string, b []byte) {
		_, err := s.Put(t.Context(), name, bytes.NewReader(b), location.PutOptions{})
		require.NoError(t, err)
	}
	for name, c := range map[string]struct {
		tamper func(t *testing.T, s location.Store)
		want   []string
	}{
		"the record was changed": {func(t *testing.T, s location.Store) {
			put(t, s, record, bytes.ReplaceAll(get(t, s, record), []byte("sqlite"), []byte("evil12")))
		}, []string{record + " does not fit its seal", "somebody changed it", "another key"}},
		"a space was added to it": {func(t *testing.T, s location.Store) { put(t, s, record, append(get(t, s, record), ' ')) }, []string{record + " does not fit its seal"}},
		"the seal was changed": {func(t *testing.T, s location.Store) {
			b := get(t, s, seal)
			b[len(b)-2] ^= 1
			put(t, s, seal, b)
		}, []string{record + " does not fit its seal"}},
		"the seal is cut off":            {func(t *testing.T, s location.Store) { put(t, s, seal, get(t, s, seal)[:30]) }, []string{"does not fit its seal"}},
		"the seal is of a later version": {func(t *testing.T, s location.Store) { put(t, s, seal, []byte("thaw-seal/v2 00\n")) }, []string{seal, `"thaw-seal/v2"`}},
		"the seal was taken away":        {func(t *testing.T, s location.Store) { require.NoError(t, s.Delete(t.Context(), seal)) }, []string{seal + " is missing", "thaw restorepoint seal"}},
		"both are another restore point's": {func(t *testing.T, s location.Store) {
			require.NoError(t, Publish(t.Context(), s, point(t, "shop-2", map[string]string{"a": "b"}), key(t), quiet))
			put(t, s, record, get(t, s, strings.Replace(record, "shop-1", "shop-2", 1)))
			put(t, s, seal, get(t, s, strings.Replace(seal, "shop-1", "shop-2", 1)))
		}, []string{record + ` is of "shop-2"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, teststore.Directory(t))
			require.NoError(t, Publish(t.Context(), s, point(t, "shop-1", map[string]string{"a": "b"}), key(t), quiet))
			_, err := Read(t.Context(), s, "shop-1", key(t))
			require.NoError(t, err)
			c.tamper(t, s)
			_, err = Read(t.Context(), s, "shop-1", key(t))
			require.Error(t, err)
			for _, w := range c.want {
				require.ErrorContains(t, err, w)
			}
			require.Equal(t, fault.User, fault.Of(err))
			_, err = Fetch(t.Context(), s, "shop-1", t.TempDir(), key(t), quiet)
			require.ErrorContains(t, err, "restorepoints/shop-1/")
			require.Error(t, verified(t, s, "shop-1", key(t)))
		})
	}
}

func TestARecordIsSealedWithItsWorkersKey(t *testing.T) {
	s := open(t, teststore.Directory(t))
	require.ErrorContains(t, Publish(t.Context(), s, point(t, "shop-1", nil), nil, quiet), "no key to seal")
	require.NoError(t, Publish(t.Context(), s, point(t, "shop-1", map[string]string{"a": "b"}), key(t), quiet))
	other, err := NewKey("another")
	require.NoError(t, err)
	_, err = Read(t.Context(), s, "shop-1", other)
	require.ErrorContains(t, err, "another key")
	_, err = Read(t.Context(), s, "shop-1", nil)
	require.NoError(t, err, "without a key nothing is checked")
	require.NoError(t, Seal(t.Context(), s, "shop-1", other), "a person trusts it")
	require.NoError(t, verified(t, s, "shop-1", other))
	_, err = Read(t.Context(), s, "shop-1", key(t))
	require.Error(t, err)
	require.Error(t, Seal(t.Context(), s, "shop-2", other))
	_, err = NewKey("")
	require.Error(t, err)
}

// Retention counts entries, and reads no record: whoever can write to a location
// must not be able to add some that push the true ones out.
func TestAnEntryThatNoWorkerWroteIsKnown(t *testing.T) {
	s := open(t, teststore.Directory(t))
	rp := point(t, "shop-1", map[string]string{"a": "b"})
	require.NoError(t, Publish(t.Context(), s, rp, key(t), quiet))
	forged := EntryOf(&rp)
	forged.ID, forged.CompletedAt = "shop-2", forged.CompletedAt.AddDate(0, 0, 1)
	require.NoError(t, putBytes(t.Context(), s, forged.name(), nil))
	forged.ID, forged.seal = "shop-3", EntryOf(&rp).sealed(key(t)).seal // another's seal
	require.NoError(t, putBytes(t.Context(), s, forged.name(), nil))
	list, err := States(t.Context(), s, key(t))
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.False(t, list[0].Forged)
	require.True(t, list[1].Forged)
	require.True(t, list[2].Forged)
	list, err = States(t.Context(), s, nil)
	require.NoError(t, err)
	require.False(t, list[1].Forged, "without a key nobody knows")

	_, err = Listed(t.Context(), s, &rp, key(t))
	require.NoError(t, err)
	other, err := NewKey("another")
	require.NoError(t, err)
	_, err = Listed(t.Context(), s, &rp, other)
	require.Equal(t, fault.User, fault.Of(err))
	require.NoError(t, Seal(t.Context(), s, "shop-1", other))
	_, err = Listed(t.Context(), s, &rp, other)
	require.NoError(t, err, "it is sealed anew with its record")
	list, err = States(t.Context(), s, other)
	require.NoError(t, err)
	require.Len(t, list, 3)
	require.False(t, list[0].Forged)
}

func TestOneWithALongNameIsSealedAnewToo(t *testing.T) {
	s := open(t, teststore.Directory(t))
	rp := point(t, "shop-1", nil)
	rp.Target.Name = strings.Repeat("/long", 80)
	require.NoError(t, Publish(t.Context(), s, rp, key(t), quiet))
	for range 2 {
		require.NoError(t, Seal(t.Context(), s, "shop-1", key(t)))
		_, err := Listed(t.Context(), s, &rp, key(t))
		require.NoError(t, err)
	}
}

func TestAnEntryThatALockHoldsIsListedOnce(t *testing.T) {
	s := locked(t)
	require.NoError(t, Publish(t.Context(), s, point(t, "shop-1", map[string]string{"a": "b"}), key(t), quiet))
	other, err := NewKey("another")
	require.NoError(t, err)
	require.NoError(t, Seal(t.Context(), s, "shop-1", other))
	for _, k := range []Key{key(t), other, nil} {
		list, err := States(t.Context(), s, k)
		require.NoError(t, err)
		require.Len(t, list, 1)
		require.False(t, list[0].Forged)
	}
}
