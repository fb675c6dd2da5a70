package blueprints_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/internal/testcorpus"
)

// FuzzParse: whatever the text, parsing and linting neither panic nor hang, and
// every fault has a place in the file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/faulty/*.yaml")
	require.NoError(f, err)
	for _, file := range append(files, "testdata/full.yaml") {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(text)
	}
	public, err := filepath.Glob(filepath.Join(testcorpus.Dir(), "kanister", "*", "*.yaml"))
	require.NoError(f, err)
	for _, file := range public {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(text)
	}
	cat := testCatalogue()
	f.Fuzz(func(t *testing.T, text []byte) {
		start := time.Now()
		bps, faults := blueprints.ParseAll("f", text)
		for _, b := range bps {
			faults = append(faults, blueprints.Lint(b, cat)...)
			for _, a := range b.Actions {
				a.EachString(func(s, path string, _ bool) {
					if line, _ := b.Position(path); line < 1 {
						t.Errorf("%s has no place", path)
					}
				})
			}
		}
		for _, x := range faults {
			if x.Line < 1 || x.Column < 1 || x.Code == "" || x.Message == "" {
				t.Errorf("fault without place, code or message: %+v", x)
			}
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %s", d)
		}
	})
}
