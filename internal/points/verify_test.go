package points

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// verified is what a whole verification says of one restore point.
func verified(t *testing.T, s location.Store, id string, key Key) error {
	list, err := Verify(t.Context(), s, []string{id}, key, "", nil, quiet)
	require.NoError(t, err)
	require.Equal(t, list[0].Err == nil, list[0].Whole)
	return list[0].Err
}

func TestASampleReadsItsShareAndOthersOnAnotherDay(t *testing.T) {
	var files []sampled
	for i := range 1000 {
		files = append(files, sampled{id: fmt.Sprint("p-", i%10), file: plan.File{Name: fmt.Sprint("f", i), Size: int64(1 + i%7)}})
	}
	size := func(list []sampled) (n int64) {
		for _, f := range list {
			n += f.file.Size
		}
		return n
	}
	day := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	one := (&Sample{0.05, day}).pick(files)
	require.InDelta(t, 0.05*float64(size(files)), size(one), 7)
	shuffled := slices.Clone(files)
	slices.Reverse(shuffled)
	require.Equal(t, one, (&Sample{0.05, day.Add(13 * time.Hour)}).pick(shuffled), "the same day, the same files")
	other := (&Sample{0.05, day.AddDate(0, 0, 1)}).pick(files)
	require.NotEqual(t, one, other)
	seen := map[string]bool{}
	for d := range 200 {
		for _, f := range (&Sample{0.05, day.AddDate(0, 0, d)}).pick(files) {
			seen[f.file.Name] = true
		}
	}
	require.Len(t, seen, len(files), "in time, every file")
	require.Len(t, (&Sample{1, day}).pick(files), len(files))
	require.Len(t, (&Sample{0.0001, day}).pick(files), 1, "at least one")
	require.Empty(t, (&Sample{0.5, day}).pick(nil))
}

func TestAVerificationSaysOfEachWhatItReadAndWhatIsWrong(t *testing.T) {
	s := open(t, teststore.Directory(t))
	for _, id := range []string{"a", "b", "c"} {
		require.NoError(t, Publish(t.Context(), s, point(t, id, map[string]string{"one": strings.Repeat("x", 100), "two": "y"}), key(t), quiet))
	}
	require.NoError(t, s.Delete(t.Context(), at("b", "two")))
	require.NoError(t, s.Delete(t.Context(), at("c", sealFile)))
	list, err := Verify(t.Context(), s, []string{"a", "b", "c", "d"}, key(t), "", nil, quiet)
	require.NoError(t, err)
	require.Equal(t, Checked{ID: "a", Files: 2, Of: 2, Bytes: 101, Whole: true}, list[0])
	require.ErrorContains(t, list[1].Err, "restorepoints/b/two")
	require.ErrorContains(t, list[2].Err, "restorepoint.seal is missing")
	require.ErrorIs(t, list[3].Err, location.ErrNotFound)
	for _, c := range list[1:] {
		require.False(t, c.Whole)
	}
	list, err = Verify(t.Context(), s, []string{"a"}, key(t), "", &Sample{0.001, time.Now()}, quiet)
	require.NoError(t, err)
	require.Equal(t, 1, list[0].Files)
	require.False(t, list[0].Whole, "a part is no proof of all")
	require.NoError(t, list[0].Err)
}

func TestALocationThatIsAwayIsNotCalledDamaged(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	s := open(t, server.Profile)
	require.NoError(t, Publish(t.Context(), s, point(t, "a", map[string]string{"one": "x"}), key(t), quiet))
	server.Kill()
	list, err := Verify(t.Context(), s, []string{"a"}, key(t), "", nil, quiet)
	require.Error(t, err)
	require.Empty(t, list)
}

func TestASampleIsAPercentage(t *testing.T) {
	day := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for text, share := range map[string]float64{"5%": 0.05, "100%": 1, "0.5%": 0.005} {
		s, err := SampleOf(text, day)
		require.NoError(t, err)
		require.InDelta(t, share, s.Share, 1e-9)
		require.Equal(t, day, s.Day)
	}
	for _, text := range []string{"5", "0%", "-1%", "101%", "NaN%", "all"} {
		_, err := SampleOf(text, day)
		require.ErrorContains(t, err, "want a percentage")
	}
	s, err := SampleOf("", day)
	require.NoError(t, err)
	require.Nil(t, s)
}
