package wiring

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"thaw/activities/secret"
	"thaw/blueprints/catalogue"
)

var update = flag.Bool("update", false, "write catalogue.json again")

// catalogue.json is what the command line and CI know of functions. It is
// written from the functions that a worker registers: `make golden`.
func TestCatalogueIsWhatWorkersRegister(t *testing.T) {
	var entries []catalogue.Function
	for _, f := range Functions(Default(), nil, secret.NewRedactor()) {
		entries = append(entries, f.Function)
	}
	want, err := catalogue.New(catalogue.Kanister(), entries).JSON()
	require.NoError(t, err)
	file := filepath.Join("..", "..", "blueprints", "catalogue", "catalogue.json")
	if *update {
		require.NoError(t, os.WriteFile(file, want, 0o644))
	}
	got, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got), "run: make golden")
}

// Every function says what it is and does: the reference is made of it.
func TestFunctionsAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Functions(Default(), nil, secret.NewRedactor()) {
		t.Run(f.Name, func(t *testing.T) {
			assert.False(t, seen[f.Name], "declared twice")
			seen[f.Name] = true
			assert.NotEmpty(t, f.Family)
			assert.NotEmpty(t, f.Summary)
			assert.Positive(t, f.Timeout)
			assert.False(t, f.Planned, "a worker runs it")
			assert.NotNil(t, f.Bind)
			for _, o := range f.Outputs {
				assert.NotEmpty(t, o.Description, o.Name)
			}
		})
	}
}
