package schema_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/library"
	"thaw/blueprints/schema"
	"thaw/internal/testcorpus"
)

func compiled(t *testing.T, cat catalogue.Catalogue) *jsonschema.Schema {
	t.Helper()
	text, err := schema.JSON(cat)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	require.NoError(t, c.AddResource(schema.ID, doc))
	s, err := c.Compile(schema.ID)
	require.NoError(t, err, "the schema is itself valid by its meta-schema")
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	var doc any
	require.NoError(t, yaml.Unmarshal(text, &doc))
	return s.Validate(doc)
}

func TestCorpusFitsTheSchema(t *testing.T) {
	dir := testcorpus.Need(t)
	s, n := compiled(t, catalogue.Default()), 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, validate(t, s, text), path)
		n++
		return nil
	}))
	require.Positive(t, n)
}

func TestLibraryFitsTheSchema(t *testing.T) {
	s := compiled(t, catalogue.Default())
	entries, err := library.List()
	require.NoError(t, err)
	for _, e := range entries {
		text, err := library.Load(e.Name)
		require.NoError(t, err)
		require.NoError(t, validate(t, s, text), e.Path)
	}
}

// Editors underline these; the same files have golden faults of the linter.
func TestMistakesDoNotFit(t *testing.T) {
	s := compiled(t, catalogue.Default())
	for _, name := range []string{
		"a-list", "approval", "args-is-a-list", "argument-types", "artifact-value-is-a-number", "bad-durations", "bad-name", "bad-retry",
		"common-words-from-elsewhere", "freeze-shape", "freeze-without-undo", "idempotent-is-text", "kind-list", "label-is-a-number",
		"missing-api-version", "missing-arguments", "misspelt-fields", "no-actions", "not-in-enum", "object-without-name",
		"phase-without-name", "phases-is-a-mapping", "removed-function", "secret-names-is-text", "spec-around-actions",
		"thaw-fields-in-kanister", "type-for-kind", "unknown-api-version", "unknown-argument", "unknown-function", "wait-without-unit", "wrong-kind",
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "testdata", "faulty", name+".yaml"))
			require.NoError(t, err)
			require.Error(t, validate(t, s, text))
		})
	}
}

// A blueprint that uses every addition of Thaw's, with nothing wrong in it.
func TestAllOfTheLanguageFits(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "testdata", "full.yaml"))
	require.NoError(t, err)
	require.NoError(t, validate(t, compiled(t, catalogue.Default()), text))
}
