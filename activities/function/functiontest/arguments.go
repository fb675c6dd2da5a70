package functiontest

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// Declared is what Kanister's documentation and code say of a function. Where
// the two differ, the code's name is the argument and the other its alias.
type Declared struct {
	Required map[string]any // with a value each
	Optional []string
	Defaults map[string]string
	Aliases  map[string]string // to the name
	Added    []string          // Thaw's own
	Relaxed  []string          // required by Kanister; Thaw has a default
	Outputs  []string
	Open     bool // what its command prints
}

// Case is a call's arguments besides the required ones, and what the function
// sees of all.
type Case[A any] struct {
	Args map[string]any
	Want A
}

// Arguments checks a function against Kanister's rules: names, which are
// required, defaults, what is refused, and how values are decoded.
func Arguments[A any](t *testing.T, functions []function.Function, name string, d Declared, cases map[string]Case[A]) {
	t.Helper()
	i := slices.IndexFunc(functions, func(f function.Function) bool { return f.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	f := &functions[i]
	t.Run(name+" declares them", func(t *testing.T) {
		want, have := slices.Concat(slices.Collect(maps.Keys(d.Required)), d.Optional, d.Relaxed, d.Added), []string{}
		for _, a := range f.Args {
			have = append(have, a.Name)
			_, required := d.Required[a.Name]
			require.Equal(t, required, a.Required, a.Name)
			require.Equal(t, d.Defaults[a.Name], a.Default, a.Name)
		}
		require.ElementsMatch(t, want, have)
		for alias, of := range d.Aliases {
			a, ok := f.Arg(alias)
			require.True(t, ok, alias)
			require.Equal(t, of, a.Name)
		}
		outputs := []string{}
		for _, o := range f.Outputs {
			outputs = append(outputs, o.Name)
		}
		require.ElementsMatch(t, d.Outputs, outputs)
		require.Equal(t, d.Open, f.OpenOutputs)
	})
	t.Run(name+" refuses what is missing or unknown", func(t *testing.T) {
		_, _, err := f.Bind(t.Context(), &NewEnv(t, "k").Env, map[string]any{"nonsense": 1, "Namespace": "x"})
		require.Equal(t, fault.User, fault.Of(err))
		require.ErrorContains(t, err, "arguments of "+name+": ")
		require.ErrorContains(t, err, `unknown argument "nonsense"`)
		require.ErrorContains(t, err, `unknown argument "Namespace"`, "names are as they are written")
		for a := range d.Required {
			require.ErrorContains(t, err, fmt.Sprintf("argument %q is required", a))
			given := maps.Clone(d.Required)
			delete(given, a)
			_, _, one := f.Bind(t.Context(), &NewEnv(t, "k").Env, given)
			require.EqualError(t, one, fmt.Sprintf("arguments of %s: argument %q is required", name, a))
		}
	})
	for what, c := range cases {
		t.Run(name+" takes "+what, func(t *testing.T) {
			args := maps.Clone(d.Required)
			if args == nil {
				args = map[string]any{}
			}
			maps.Copy(args, c.Args)
			var got A
			require.NoError(t, f.Decode(args, &got))
			require.Equal(t, c.Want, got)
		})
	}
}

// Refused checks that arguments besides the required ones are refused, with
// these words.
func Refused(t *testing.T, functions []function.Function, name string, required map[string]any, cases map[string]map[string]any) {
	t.Helper()
	i := slices.IndexFunc(functions, func(f function.Function) bool { return f.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	for says, more := range cases {
		t.Run(name+" refuses: "+says, func(t *testing.T) {
			args := maps.Clone(required)
			maps.Copy(args, more)
			_, _, err := functions[i].Bind(t.Context(), &NewEnv(t, "k").Env, args)
			require.ErrorContains(t, err, says)
			require.Equal(t, fault.User, fault.Of(err))
		})
	}
}
