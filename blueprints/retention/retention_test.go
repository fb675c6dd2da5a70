package retention

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// at parses times as the tables write them.
func at(t testing.TB, text string) time.Time {
	p, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return p
}

// kept are the ids that are kept, each with its reasons, the newest first.
func kept(list []Verdict) []string {
	all := []string{}
	for _, v := range list {
		if v.Keep {
			all = append(all, fmt.Sprint(v.ID, " ", v.Reasons))
		}
	}
	return all
}

func TestWhatIsKeptAndWhy(t *testing.T) {
	for name, c := range map[string]struct {
		keep    Keep
		entries map[string]string // id -> time; an id with g is good, with p proven
		want    []string
	}{
		"nothing is there":   {Keep{Daily: 7}, nil, []string{}},
		"one is always kept": {Keep{Yearly: 1}, map[string]string{"a": "2026-11-25T10:00:00Z"}, []string{"a [yearly 2026 the newest]"}},
		"the last ones": {Keep{Last: 2}, map[string]string{"a": "2026-11-23T10:00:00Z", "b": "2026-11-24T10:00:00Z", "c": "2026-11-25T10:00:00Z"},
			[]string{"c [last 1 the newest]", "b [last 2]"}},
		"several in one hour: the newest of it": {Keep{Hourly: 2}, map[string]string{
			"a": "2026-11-25T09:10:00Z", "b": "2026-11-25T09:50:00Z", "c": "2026-11-25T10:10:00Z", "d": "2026-11-25T10:20:00Z",
		}, []string{"d [hourly 2026-11-25 10h +0000 the newest]", "b [hourly 2026-11-25 09h +0000]"}},
		"at the same second, by name": {Keep{Daily: 1}, map[string]string{"a": "2026-11-25T09:10:00Z", "b": "2026-11-25T09:10:00Z"}, []string{"b [daily 2026-11-25 the newest]"}},
		"a gap uses up no place": {Keep{Daily: 3}, map[string]string{
			"a": "2026-01-01T10:00:00Z", "b": "2026-06-01T10:00:00Z", "c": "2026-06-02T10:00:00Z", "d": "2026-11-25T10:00:00Z",
		}, []string{"d [daily 2026-11-25 the newest]", "c [daily 2026-06-02]", "b [daily 2026-06-01]"}},
		"a day begins in its zone": {Keep{Daily: 2, TimeZone: "Asia/Tokyo"}, map[string]string{
			"a": "2026-11-24T14:00:00Z", "b": "2026-11-24T14:59:00Z", "c": "2026-11-24T15:00:00Z",
		}, []string{"c [daily 2026-11-25 the newest]", "b [daily 2026-11-24]"}},
		"the week of New Year is one": {Keep{Weekly: 2}, map[string]string{
			"a": "2026-12-27T23:59:00Z", "b": "2026-12-28T00:00:00Z", "c": "2027-01-03T23:59:00Z",
		}, []string{"c [weekly 2026-W53 the newest]", "a [weekly 2026-W52]"}},
		"the day on which the clock goes forward is one": {Keep{Daily: 3, TimeZone: "Europe/Zurich"}, map[string]string{
			"a": "2026-03-28T22:59:00Z", "b": "2026-03-28T23:00:00Z", "c": "2026-03-29T21:59:00Z", "d": "2026-03-29T22:00:00Z",
		}, []string{"d [daily 2026-03-30 the newest]", "c [daily 2026-03-29]", "a [daily 2026-03-28]"}},
		"the hour that comes twice is two": {Keep{Hourly: 3, TimeZone: "Europe/Zurich"}, map[string]string{
			"a": "2026-10-24T23:59:00Z", "b": "2026-10-25T00:30:00Z", "c": "2026-10-25T01:30:00Z", "d": "2026-10-25T01:40:00Z",
		}, []string{"d [hourly 2026-10-25 02h +0100 the newest]", "b [hourly 2026-10-25 02h +0200]", "a [hourly 2026-10-25 01h +0200]"}},
		"one is kept for many reasons, and kinds count each by itself": {Keep{Daily: 1, Weekly: 2, Monthly: 2, Yearly: 2}, map[string]string{
			"a": "2025-12-31T10:00:00Z", "b": "2026-10-31T10:00:00Z", "c": "2026-11-15T10:00:00Z", "d": "2026-11-25T10:00:00Z",
		}, []string{
			"d [daily 2026-11-25 weekly 2026-W48 monthly 2026-11 yearly 2026 the newest]", "c [weekly 2026-W46]", "b [monthly 2026-10]", "a [yearly 2025]",
		}},
		"the newest good and proven ones, however old": {Keep{Last: 1}, map[string]string{
			"p1": "2020-01-01T10:00:00Z", "gp2": "2021-01-01T10:00:00Z", "g3": "2022-01-01T10:00:00Z", "g4": "2023-01-01T10:00:00Z", "x5": "2024-01-01T10:00:00Z",
		}, []string{"x5 [last 1 the newest]", "g4 [the newest consistent one]", "gp2 [the newest proven one]"}},
	} {
		t.Run(name, func(t *testing.T) {
			var entries []Entry
			for id, when := range c.entries {
				entries = append(entries, Entry{
					ID: id, CompletedAt: at(t, when), Good: slices.Contains([]byte(id), 'g'), Proven: slices.Contains([]byte(id), 'p'),
				})
			}
			list, err := c.keep.Apply(entries)
			require.NoError(t, err)
			require.Len(t, list, len(entries))
			require.Equal(t, c.want, kept(list))
		})
	}
}

func TestARuleThatSomebodyMistypedIsRefused(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing":         {`{}`, "keep says nothing"},
		"a zone alone":    {`{"timeZone":"UTC"}`, "keep says nothing"},
		"a negative":      {`{"daily":-1,"weekly":2}`, "keep.daily is -1"},
		"no zone":         {`{"daily":1,"timeZone":"Mars/Base"}`, `keep.timeZone "Mars/Base"`},
		"a machine's own": {`{"daily":1,"timeZone":"Local"}`, "another on each machine"},
		"misspelt":        {`{"dayly":7}`, `"dayly"`},
		"of another type": {`{"daily":"7"}`, "keep: "},
	} {
		t.Run(name, func(t *testing.T) {
			var k Keep
			err := json.Unmarshal([]byte(c.in), &k)
			if err == nil {
				_, err = k.Apply(nil)
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	var k Keep
	require.NoError(t, json.Unmarshal([]byte(`{"last":1,"hourly":2,"daily":3,"weekly":4,"monthly":5,"yearly":6,"timeZone":"Europe/Zurich"}`), &k))
	require.Equal(t, Keep{1, 2, 3, 4, 5, 6, "Europe/Zurich"}, k)
}

// Retention that is run after every backup keeps in the end what it would have
// kept of all of them at once: nothing is deleted too early, whenever it is run.
func TestRetentionThatIsRunOftenKeepsWhatItWouldHaveKeptAtOnce(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		keep := Keep{
			Last: rnd.IntN(3), Hourly: rnd.IntN(5), Daily: rnd.IntN(8), Weekly: rnd.IntN(5), Monthly: rnd.IntN(5), Yearly: 1 + rnd.IntN(3),
			TimeZone: []string{"", "Europe/Zurich", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}[rnd.IntN(5)],
		}
		sum := keep.Last + keep.Hourly + keep.Daily + keep.Weekly + keep.Monthly + keep.Yearly
		when := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
		var all, left []Entry
		for i := range 400 {
			when = when.Add(time.Duration(rnd.Int64N(int64([]time.Duration{time.Hour, 12 * time.Hour, 80 * time.Hour}[rnd.IntN(3)]))))
			e := Entry{ID: fmt.Sprintf("%04d", i), CompletedAt: when, Good: rnd.IntN(3) == 0, Proven: rnd.IntN(9) == 0}
			all, left = append(all, e), append(left, e)
			if rnd.IntN(4) > 0 {
				continue
			}
			rnd.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
			list, err := keep.Apply(left)
			require.NoError(t, err)
			left = left[:0:0]
			for _, v := range list {
				require.Equal(t, v.Keep, len(v.Reasons) > 0)
				if v.Keep {
					left = append(left, v.Entry)
				}
			}
			require.LessOrEqual(t, len(left), sum+3, "seed %d", seed)
			has := func(is func(Entry) bool) {
				for i := len(all) - 1; i >= 0; i-- {
					if is(all[i]) {
						require.Contains(t, left, all[i], "seed %d", seed)
						return
					}
				}
			}
			has(func(Entry) bool { return true })
			has(func(e Entry) bool { return e.Good })
			has(func(e Entry) bool { return e.Proven })
		}
		often, err := keep.Apply(left)
		require.NoError(t, err)
		once, err := keep.Apply(all)
		require.NoError(t, err)
		require.Equal(t, kept(once), kept(often), "seed %d: %+v", seed, keep)
	}
}
