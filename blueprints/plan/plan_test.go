package plan

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestValuesKeepIntegers(t *testing.T) {
	tests := []struct {
		name, in string
		want     any
	}{
		{"an integer", `1000000`, int64(1000000)},
		{"the largest", `9223372036854775807`, int64(9223372036854775807)},
		{"one beyond it", `9223372036854775808`, float64(9223372036854775808)},
		{"a fraction", `1.5`, 1.5},
		{"beyond every number", `1e999`, "1e999"},
		{"in a list", `[1, {"n": 2}]`, []any{int64(1), map[string]any{"n": int64(2)}}},
		{"text", `"7"`, "7"},
		{"null", `null`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var v Values
			require.NoError(t, json.Unmarshal([]byte(`{"x":`+tt.in+`}`), &v))
			assert.Equal(t, tt.want, v["x"])
		})
	}
	var v Values
	require.Error(t, json.Unmarshal([]byte(`[1]`), &v))
}

func TestDuration(t *testing.T) {
	tests := []struct {
		name, in string
		want     time.Duration
		err      string
	}{
		{name: "as Go writes it", in: `"1h30m"`, want: 90 * time.Minute},
		{name: "a number is seconds", in: `1.5`, want: 1500 * time.Millisecond},
		{name: "no unit", in: `"90"`, err: "write it as 90s"},
		{name: "nothing of the kind", in: `true`, err: `write it as "90s"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var d Duration
			err := json.Unmarshal([]byte(tt.in), &d)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, d.D())
			b, err := json.Marshal(d)
			require.NoError(t, err)
			var back Duration
			require.NoError(t, json.Unmarshal(b, &back))
			assert.Equal(t, d, back)
		})
	}
}

func TestTargetKey(t *testing.T) {
	tests := []struct {
		name string
		in   Target
		want string
	}{
		{"a file", Target{Kind: "SQLite", Name: "/data/shop.db"}, "sqlite:/data/shop.db"},
		{"an object of Kubernetes", Target{Kind: "StatefulSet", Namespace: "shop", Name: "db"}, "statefulset:shop:db"},
		{"the default queue is not named", Target{Kind: "x", Name: "y", TaskQueue: DefaultTaskQueue}, "x:y"},
		{"another one is: its host has a file of that name too", Target{Kind: "x", Name: "y", TaskQueue: "host7"}, "x:y@host7"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, tt.in.Key())
			assert.Equal(t, "freeze/"+tt.want, FreezeID(tt.in))
		})
	}
}

func TestDigestNamesAllOfThePlan(t *testing.T) {
	seal := func(change func(*Plan)) string {
		p := Plan{Blueprint: "b", Action: "a", Phases: []Phase{{Name: "x", Args: Values{"n": int64(1), "m": "2"}}}}
		change(&p)
		require.NoError(t, p.Seal())
		return p.Digest
	}
	same := seal(func(*Plan) {})
	assert.Equal(t, same, seal(func(*Plan) {}))
	assert.Equal(t, same, seal(func(p *Plan) { p.Digest = "sha256:of before" }))
	for name, change := range map[string]func(*Plan){
		"an argument":   func(p *Plan) { p.Phases[0].Args["n"] = int64(2) },
		"the target":    func(p *Plan) { p.Target.Name = "other" },
		"the blueprint": func(p *Plan) { p.BlueprintText = "x" },
		"a phase":       func(p *Plan) { p.Phases = append(p.Phases, Phase{Name: "y"}) },
	} {
		assert.NotEqual(t, same, seal(change), name)
	}
}

func TestParseRestorePoint(t *testing.T) {
	_, err := ParseRestorePoint([]byte(`{"apiVersion":"thaw.dev/restorepoint/v9","id":"x"}`))
	require.ErrorContains(t, err, `its version is "thaw.dev/restorepoint/v9"; this release reads `+RestorePointVersion)
	_, err = ParseRestorePoint([]byte(`{`))
	require.Error(t, err)
	rp, err := ParseRestorePoint([]byte(`{"apiVersion":"` + RestorePointVersion + `","id":"x"}`))
	require.NoError(t, err)
	assert.Equal(t, "x", rp.ID)
}

// What parses is written and read again as the same, whatever it is.
func FuzzParseRestorePoint(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"` + RestorePointVersion + `","id":"x","options":{"n":1.0,"m":1e20,"o":1e999},"completedAt":"2026-11-25T10:46:18.7+02:00"}`))
	f.Add([]byte(`{"apiVersion":"` + RestorePointVersion + `","id":"x","directory":"/a","artifacts":{"a":{"keyValue":{"f":"/a/b"}},"b":{}},"application":{"volumes":[null,{"a":[1]}]}}`))
	f.Add([]byte(`{"apiVersion":"` + RestorePointVersion + `","freezes":[{"results":{"a":{"output":{"b":-0}}}}],"files":[{"name":"\ud800","size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rp, err := ParseRestorePoint(b)
		if err != nil {
			return
		}
		once, err := json.Marshal(rp)
		require.NoError(t, err)
		again, err := ParseRestorePoint(once)
		require.NoError(t, err)
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
		again.Relocate("/elsewhere")
	})
}
