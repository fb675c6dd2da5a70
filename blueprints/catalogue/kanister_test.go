package catalogue_test

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/catalogue"
)

var bootstrap = flag.Bool("bootstrap", false, "write catalogue.json with Kanister's functions alone")

// Every function of Kanister's language is known, as it is declared, unless a
// family of this release has taken its place.
func TestDefaultHoldsKanister(t *testing.T) {
	if *bootstrap {
		b, err := catalogue.New(catalogue.Kanister()).JSON()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile("catalogue.json", b, 0o644))
		t.Skip("catalogue.json is written; run again without -bootstrap")
	}
	def := catalogue.Default()
	for _, want := range catalogue.Kanister() {
		t.Run(want.Name, func(t *testing.T) {
			have, ok := def.Lookup(want.Name)
			require.True(t, ok, "catalogue.json lacks it: regenerate it (see package activities)")
			if !have.Planned {
				for _, a := range want.Args {
					_, ok := have.Arg(a.Name)
					require.True(t, ok, "the family's %s takes no %q, which Kanister's does", want.Name, a.Name)
				}
				return
			}
			require.Equal(t, want, *have)
		})
	}
}

// The table of Kanister's documentation and code: 28 functions of the current
// release and the 3 of the Kopia server. A family has each, or it is planned.
func TestKanisterIsComplete(t *testing.T) {
	planned := map[string]bool{}
	for _, f := range catalogue.Kanister() {
		require.False(t, planned[f.Name], "%s is declared twice", f.Name)
		planned[f.Name] = true
		require.True(t, f.Planned, f.Name)
		require.Positive(t, f.Timeout, f.Name)
		require.NotEmpty(t, f.Summary, f.Name)
	}
	for _, want := range []string{
		"KubeExec", "KubeExecAll", "KubeTask", "MultiContainerRun", "PrepareData", "ScaleWorkload", "KubeOps", "Wait", "WaitV2",
		"BackupData", "BackupDataAll", "BackupDataStats", "CopyVolumeData", "RestoreData", "RestoreDataAll", "DeleteData",
		"DeleteDataAll", "CheckRepository", "LocationDelete", "CreateCSISnapshot", "CreateCSISnapshotStatic",
		"RestoreCSISnapshot", "DeleteCSISnapshot", "DeleteCSISnapshotContent", "CreateRDSSnapshot",
		"ExportRDSSnapshotToLocation", "RestoreRDSSnapshot", "DeleteRDSSnapshot",
		"BackupDataUsingKopiaServer", "RestoreDataUsingKopiaServer", "DeleteDataUsingKopiaServer",
	} {
		f, ok := catalogue.Default().Lookup(want)
		require.True(t, ok, want)
		require.Equal(t, planned[want], f.Planned, "%s is planned, or a family has it: not both", want)
	}
}

func TestArgumentsAnswerToTheirAliases(t *testing.T) {
	for _, c := range []struct{ fn, alias, name string }{
		{"CreateCSISnapshotStatic", "handle", "snapshotHandle"},
		{"CreateCSISnapshotStatic", "snapshotHandle", "snapshotHandle"},
		{"BackupDataStats", "mode", "statsMode"},
		{"ExportRDSSnapshotToLocation", "image", "image"},
		{"RestoreRDSSnapshot", "image", "image"},
	} {
		f, ok := catalogue.Default().Lookup(c.fn)
		require.True(t, ok)
		a, ok := f.Arg(c.alias)
		require.True(t, ok, "%s.%s", c.fn, c.alias)
		require.Equal(t, c.name, a.Name)
	}
}
