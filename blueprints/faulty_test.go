package blueprints_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
)

var update = flag.Bool("update", false, "write the golden files")

// testCatalogue is Kanister's functions, and a few in the shape of Thaw's own,
// so that the golden files do not change with each new function.
func testCatalogue() catalogue.Catalogue {
	return catalogue.New(catalogue.Default().Functions, []catalogue.Function{
		{Name: "Freeze", Args: []catalogue.Arg{{Name: "label", Type: catalogue.String}},
			Outputs: []catalogue.Output{{Name: "session"}, {Name: "startLSN"}}, Proof: []string{"session"}, Timeout: time.Minute},
		{Name: "Thaw", Idempotent: true, Args: []catalogue.Arg{{Name: "session", Type: catalogue.String}, {Name: "path", Type: catalogue.String}},
			Outputs: []catalogue.Output{{Name: "session"}, {Name: "held"}}, Timeout: time.Minute},
		{Name: "Cut", Cut: true, Args: []catalogue.Arg{{Name: "label", Type: catalogue.String}},
			Outputs: []catalogue.Output{{Name: "path"}}, Timeout: time.Minute},
		{Name: "Ask", Person: true, Args: []catalogue.Arg{{Name: "message", Type: catalogue.String, Required: true}}, Timeout: time.Hour},
	})
}

// lint is what `thaw blueprint lint` says of a file.
func lint(name string, text []byte) blueprints.Faults {
	bp, faults := blueprints.Parse(name, text)
	return append(faults, blueprints.Lint(bp, testCatalogue())...).Sort()
}

// Each file is a mistake that people make; its golden file is what they are
// told, with the place.
func TestFaultyBlueprints(t *testing.T) {
	files, err := filepath.Glob("testdata/faulty/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 60)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			faults := lint(name+".yaml", text)
			require.NotEmpty(t, faults, "nothing is found wrong")
			lines := strings.Split(string(text), "\n")
			for _, f := range faults {
				require.LessOrEqual(t, f.Line, len(lines), "%s", f)
				require.GreaterOrEqual(t, f.Line, 1, "%s", f)
				require.LessOrEqual(t, f.Column, len(lines[f.Line-1])+1, "%s", f)
				require.GreaterOrEqual(t, f.Column, 1, "%s", f)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				require.NoError(t, os.WriteFile(golden, []byte(faults.Error()+"\n"), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err, "run with -update, and read what it wrote")
			require.Equal(t, string(want), faults.Error()+"\n")
		})
	}
}

// A fault's place is exact in every way of writing a text.
func TestPlaceOfAReference(t *testing.T) {
	const head = "apiVersion: cr.kanister.io/v1alpha1\nkind: Blueprint\nmetadata: {name: a}\nactions:\n  backup:\n    phases:\n    - name: a\n      func: LocationDelete\n      args:\n"
	for _, c := range []struct {
		name, artifact string
		line, col      int
	}{
		{"plain", "        artifact: a{{ .Nothing }}\n", 10, 23},
		{"single quotes", "        artifact: 'it''s {{ .Nothing }}'\n", 10, 29},
		{"double quotes", "        artifact: \"a\\tb {{ .Nothing }}\"\n", 10, 28},
		{"literal", "        artifact: |\n          one\n          two {{ .Nothing }}\n", 12, 18},
		{"literal, stripped", "        artifact: |-\n\n          two {{ .Nothing }}\n", 12, 18},
		{"literal, indented more inside", "        artifact: |\n          one\n            two {{ .Nothing }}\n", 12, 20},
		{"folded", "        artifact: >\n          one\n          two\n\n          three {{ .Nothing }}\n", 14, 20},
		{"second of two alike", "        artifact: '{{ .Time }} {{ .Nothing }}'\n", 10, 35},
		{"non-ASCII before", "        artifact: 'Größe {{ .Nothing }}'\n", 10, 29},
		{"behind index", "        artifact: '{{ index .Nothing \"a\" }}'\n", 10, 29},
		{"non-ASCII before, in a block", "        artifact: |\n          Größe\n          Größe {{ .Nothing }}\n", 12, 20},
		{"Windows' line ends", "        artifact: |\r\n          one\r\n          two {{ .Nothing }}\r\n", 12, 18},
		{"a comment behind the indicator", "        artifact: | # why\n          two {{ .Nothing }}\n", 11, 18},
		{"over two lines, plain", "        artifact: one\n          two {{ .Nothing }}\n", 11, 18},
		{"over two lines, quoted", "        artifact: \"one\n          two {{ .Nothing }}\"\n", 11, 18},
	} {
		t.Run(c.name, func(t *testing.T) {
			faults := lint("f", []byte(head+c.artifact))
			require.Len(t, faults, 1, "%s", faults.Error())
			require.Equal(t, "unknown-reference", faults[0].Code)
			require.Equal(t, fmt.Sprintf("%d:%d", c.line, c.col), fmt.Sprintf("%d:%d", faults[0].Line, faults[0].Column))
		})
	}
}
