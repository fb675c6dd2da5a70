package wait

import (
	"testing"
	"time"

	"thaw/activities/function/functiontest"
)

type values = map[string]any

// The arguments of Kanister's two waits. Both of Wait's have another meaning
// besides here: for a time, and on the worker's host.
func TestArgumentsAreKanisters(t *testing.T) {
	all := Functions(nil)
	on := values{"allOf": []any{values{"condition": "true", "objectReference": values{"kind": "Pod", "name": "db"}}}}
	functiontest.Arguments(t, all, "Wait", functiontest.Declared{
		Relaxed: []string{"timeout", "conditions"}, Added: []string{"for"}, Defaults: map[string]string{"timeout": "5m", "for": "0s"},
	}, map[string]functiontest.Case[waitArgs]{
		"a duration":              {Args: values{"timeout": "360s", "conditions": on}, Want: waitArgs{Timeout: 6 * time.Minute, Conditions: on}},
		"a default":               {Args: values{"conditions": on}, Want: waitArgs{Timeout: 5 * time.Minute, Conditions: on}},
		"a time and nothing else": {Args: values{"for": "1h30m"}, Want: waitArgs{Timeout: 5 * time.Minute, For: 90 * time.Minute}},
	})
	functiontest.Refused(t, all, "Wait", values{"conditions": on}, map[string]values{
		`argument "timeout" is no duration`:              {"timeout": "soon"},
		`"timeout" is no duration, such as 90s or 1h30m`: {"timeout": 300},
		"want one above zero":                            {"timeout": "-1s"},
		`argument "conditions" is no mapping`:            {"conditions": "true"},
		"conditions: ":                                   {"conditions": values{"noneOf": []any{}}},
	})
	both := values{"timeout": "1m", "conditions": on}
	functiontest.Arguments(t, all, "WaitV2", functiontest.Declared{Required: both}, map[string]functiontest.Case[waitV2Args]{
		"both": {Want: waitV2Args{Timeout: time.Minute, Conditions: on}},
	})
	functiontest.Refused(t, all, "WaitV2", both, map[string]values{
		`argument "timeout" is no duration`: {"timeout": "{{ .Options.timeout }}"},
		"give conditions":                   {"conditions": values{}},
	})
}
