package when_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/blueprints/when"
)

func input() when.Input {
	return when.Input{
		Target:  plan.Target{Kind: "StatefulSet", Name: "db", Namespace: "shop"},
		Options: map[string]any{"depth": int64(3), "full": true, "tags": []any{"a", "b"}, "ratio": 0.5},
		Outputs: map[string]map[string]any{"find": {"size": "12", "count": int64(1000000)}, "skipped": {}},
	}
}

func TestEval(t *testing.T) {
	for expr, want := range map[string]bool{
		``:                                            true,
		"  \n":                                        true,
		`true`:                                        true,
		`target.kind == "StatefulSet"`:                true,
		`target.namespace.startsWith("x")`:            false,
		`options.depth > 2`:                           true,
		`options.ratio < 1`:                           true,
		`options.full && options.depth == 3`:          true,
		`"b" in options.tags`:                         true,
		`outputs.find.size == "12"`:                   true,
		`int(outputs.find.size) > 10`:                 true,
		`outputs["find"]["count"] == 1000000`:         true,
		`has(outputs.find.path)`:                      false,
		`has(outputs.later.path)`:                     false,
		`"find" in outputs`:                           true,
		`outputs.find.size.matches("^[0-9]+$")`:       true,
		`options.full`:                                true,
		`target.resource == ""`:                       true,
		`outputs.find.size.replace("1", "2") == "22"`: true,
	} {
		if strings.Contains(expr, "outputs.later") {
			_, err := when.Eval(expr, input())
			require.ErrorContains(t, err, "no such key: later")
			continue
		}
		got, err := when.Eval(expr, input())
		require.NoError(t, err, expr)
		require.Equal(t, want, got, expr)
	}
}

func TestWhatDoesNotCompile(t *testing.T) {
	for expr, want := range map[string]string{
		`outputs.find.size >`: "Syntax error",
		`target.name`:         "of type string",
		`1`:                   "of type int",
		`phases.find == "x"`:  "known are target, options, outputs and published",
		`target.name > 3`:     "no matching overload",
		`options.depth = 3`:   "Syntax error",
		`[1,2]`:               "of type list(int)",
		strings.Repeat("(", 3000) + "true" + strings.Repeat(")", 3000): "",
		`"` + strings.Repeat("x", 9000) + `" == "x"`:                   "at most 8192",
	} {
		_, err := when.Compile(expr)
		var e *when.Error
		require.ErrorAs(t, err, &e, "%.40s", expr)
		require.Contains(t, err.Error(), want, "%.40s", expr)
		require.Positive(t, e.Line)
		require.Positive(t, e.Column)
	}
}

func TestPlaceOfAnError(t *testing.T) {
	_, err := when.Compile("true &&\n  phase.x == 1")
	var e *when.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, []int{2, 3}, []int{e.Line, e.Column})
}

func TestWhatDoesNotEvaluate(t *testing.T) {
	for expr, want := range map[string]string{
		`outputs.find.path == "x"`:         "no such key: path",
		`options.nothing`:                  "no such key: nothing",
		`options.depth`:                    "want true or false",
		`int(outputs.find.size + "x") > 1`: "type conversion error",
	} {
		_, err := when.Eval(expr, input())
		require.ErrorContains(t, err, want, expr)
		require.ErrorContains(t, err, "when ", expr)
	}
}

// An expression has no loops of its own, but its macros multiply.
func TestCostIsBounded(t *testing.T) {
	in := input()
	big := make([]any, 2000)
	for i := range big {
		big[i] = int64(i)
	}
	in.Options["big"] = big
	start := time.Now()
	_, err := when.Eval(`options.big.all(a, options.big.all(b, options.big.all(c, a + b + c >= 0)))`, in)
	require.ErrorContains(t, err, "cost limit")
	require.Less(t, time.Since(start), 10*time.Second)
}

func TestRefs(t *testing.T) {
	e, err := when.Compile(`outputs.find.size == "1" && options.depth > 1 && outputs["a b"].c == target.name && has(outputs.x.y)`)
	require.NoError(t, err)
	var got []string
	for _, r := range e.Refs() {
		got = append(got, strings.Join(r, "/"))
	}
	for _, want := range []string{"outputs/find/size", "options/depth", "outputs/a b/c", "target/name", "outputs/x/y"} {
		require.Contains(t, got, want)
	}
}

// FuzzWhen: whatever the expression, it neither panics nor hangs.
func FuzzWhen(f *testing.F) {
	for _, s := range []string{
		`outputs.find.size == "12"`, `options.depth > 2 && has(outputs.find.path)`, `target.name.matches("^a.*b$")`, `options.tags.all(t, t != "")`,
		`outputs.map(k, outputs[k].size()).exists(x, x > 1)`, `1/0 == 1`, `"x" * 3`, `timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")`,
		`duration("1h") > duration("1m")`, `{"a": [1, 2, {"b": c}]}.a[2].b`, `options["depth"] in [1, 2, 3]`, `outputs.find.size >`, "\x00", `"%s".format([1])`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start := time.Now()
		e, err := when.Compile(s)
		if err == nil {
			e.Refs()
			if _, err := e.Eval(input()); err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %s", d)
		}
	})
}
