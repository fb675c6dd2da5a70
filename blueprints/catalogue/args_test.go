package catalogue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/catalogue"
)

type sample struct {
	Text  string            `arg:"text" doc:"a text"`
	Count int               `arg:"count" doc:"a count"`
	Yes   bool              `arg:"yes" doc:"yes or no"`
	For   time.Duration     `arg:"for" doc:"a time"`
	List  []string          `arg:"list" doc:"a list"`
	Map   map[string]string `arg:"map" doc:"a map"`
	Mode  string            `arg:"mode" enum:"a|b" default:"a" doc:"a mode"`
}

// Values are decoded as weakly as Kanister decodes them (mapstructure's
// WeakDecode), but never with a loss that nobody sees.
func TestDecodeIsWeak(t *testing.T) {
	f := catalogue.Function{Name: "F", Args: catalogue.Args(sample{})}
	for name, c := range map[string]struct {
		args map[string]any
		want sample
		says string
	}{
		"texts are numbers, booleans and durations": {args: map[string]any{"count": "3", "yes": "true", "for": "90s"}, want: sample{Count: 3, Yes: true, For: 90 * time.Second, Mode: "a"}},
		"a number is a text":                        {args: map[string]any{"text": 5432}, want: sample{Text: "5432", Mode: "a"}},
		"one is true":                               {args: map[string]any{"yes": 1}, want: sample{Yes: true, Mode: "a"}},
		"one text is a list":                        {args: map[string]any{"list": "a b"}, want: sample{List: []string{"a b"}, Mode: "a"}},
		"an empty text is a list of it":             {args: map[string]any{"list": ""}, want: sample{List: []string{""}, Mode: "a"}},
		"numbers in a map are texts":                {args: map[string]any{"map": map[string]any{"a": 1}}, want: sample{Map: map[string]string{"a": "1"}, Mode: "a"}},
		"what JSON makes of an integer":             {args: map[string]any{"count": 3.0}, want: sample{Count: 3, Mode: "a"}},
		"nothing is the zero":                       {args: map[string]any{"count": nil, "for": 0}, want: sample{Mode: "a"}},
		"a fraction is no integer":                  {args: map[string]any{"count": 3.5}, says: `arguments of F: argument "count" is no integer`},
		"yes is no integer":                         {args: map[string]any{"count": true}, says: `argument "count" is no integer`},
		"seconds need their unit":                   {args: map[string]any{"for": 90}, says: `argument "for" is no duration, such as 90s or 1h30m`},
		"a secret is not quoted":                    {args: map[string]any{"count": "hunter2", "for": "hunter2", "yes": "hunter2"}, says: `argument "for" is no duration`},
		"an enum says what is allowed":              {args: map[string]any{"mode": "c"}, says: `argument "mode" is "c"; want one of a, b`},
		"all of it in one error":                    {args: map[string]any{"nine": 1, "map": "x", "list": map[string]any{"a": map[string]any{}}}, says: `unknown argument "nine"; `},
	} {
		t.Run(name, func(t *testing.T) {
			var got sample
			err := f.Decode(c.args, &got)
			if c.says != "" {
				require.ErrorContains(t, err, c.says)
				require.NotContains(t, err.Error(), "hunter2")
				require.NotContains(t, err.Error(), "\n")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}
