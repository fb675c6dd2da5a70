package blueprints_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/internal/testcorpus"
)

// corpus returns the public blueprints that nobody here wrote, by name.
func corpus(t testing.TB) map[string][]byte {
	t.Helper()
	dir := testcorpus.Need(t)
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".yaml") {
			return err
		}
		text, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(name)] = text
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, out, "%s holds no blueprint", dir)
	return out
}

// trueFindings are the mistakes that the corpus really has: file, code and how
// many. Kanister renders late and enforces little, so nobody met them.
var trueFindings = map[string]map[string]int{
	// Its own validator refuses these two.
	"kanister/aws-rds-postgres/aws-rds-postgres-blueprint.yaml":                   {"duplicate-phase-name": 1},
	"kanister/elasticsearch-incremental/elasticsearch-incremental-blueprint.yaml": {"duplicate-phase-name": 2},
	"kanister/aws-rds-postgres/aws-rds-postgres-dump-blueprint.yaml":              {"undeclared-artifact": 1},
	"kanister/couchbase/couchbase-blueprint.yaml":                                 {"undeclared-artifact": 1},
	"kanister/mongo-sidecar/mongo-sidecar-blueprint.yaml":                         {"undeclared-secret": 4},
	"kanister/postgres-rds-restore/postgres-rds-restore-blueprint.yaml":           {"undeclared-config-map": 2, "undeclared-secret": 4},
	// Its deferPhase names a pod that may never have been made: the cleanup
	// then fails, and hides why the backup did.
	"kanister/postgres/postgres-start-stop-blueprint.yaml": {"may-be-absent": 1},
}

func TestCorpusLints(t *testing.T) {
	for name, text := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			bp, faults := blueprints.Parse(name, text)
			require.Empty(t, faults)
			faults = blueprints.Lint(bp, catalogue.Default())
			require.NoError(t, faults.Err())
			found := map[string]int{}
			for _, f := range faults {
				found[f.Code]++
			}
			want := trueFindings[name]
			if want == nil {
				want = map[string]int{}
			}
			require.Equal(t, want, found, "%s", faults.Error())
		})
	}
}

func TestCorpusRendersForMadeUpTargets(t *testing.T) {
	for name, text := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			bp, _ := blueprints.Parse(name, text)
			rendersOffline(t, bp)
		})
	}
}

// rendersOffline renders all that an action's templates can be: arguments,
// objects and output artifacts.
func rendersOffline(t *testing.T, bp *blueprints.Blueprint) {
	t.Helper()
	cat := catalogue.Default()
	for _, a := range bp.Actions {
		p := render.Sample(bp, a, "")
		o := render.Options{Placeholder: true}
		a.Each(func(ph *blueprints.Phase) {
			o.Path = ph.Path
			fn, _ := cat.Lookup(ph.Func)
			args, err := render.Args(fn, plan.Values(ph.Args), p, o)
			require.NoError(t, err)
			require.Len(t, args, len(ph.Args))
			rendered(t, fn, map[string]any(args))
			_, err = render.References(ph.Objects, p, o)
			require.NoError(t, err)
		})
		o.Path = a.Path
		arts, err := render.Artifacts(a.OutputArtifacts, p, o)
		require.NoError(t, err)
		require.Len(t, arts, len(a.OutputArtifacts))
	}
}

// rendered asserts that no template and no hole is left.
func rendered(t *testing.T, fn *catalogue.Function, args map[string]any) {
	t.Helper()
	for name, v := range args {
		if a, ok := fn.Arg(name); ok && a.Raw {
			continue
		}
		blueprints.EachString(v, name, func(s, path string, _ bool) {
			require.NotContains(t, s, "<no value>", path)
			require.NotContains(t, s, "{{ .", path)
		})
	}
}

func TestLibraryLintsAndRenders(t *testing.T) {
	entries, err := library.List()
	require.NoError(t, err)
	for _, e := range entries {
		t.Run(e.Name, func(t *testing.T) {
			text, err := library.Load(e.Name)
			require.NoError(t, err)
			bp, faults := blueprints.Parse(e.Path, text)
			require.Empty(t, faults)
			require.Equal(t, e.Name, bp.Metadata.Name, "a blueprint is named as its folder")
			for _, f := range blueprints.Lint(bp, catalogue.Default()) {
				require.Equal(t, "may-be-absent", f.Code, "%s", f)
			}
			rendersOffline(t, bp)
		})
	}
}
