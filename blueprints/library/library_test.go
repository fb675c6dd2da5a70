package library_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/library"
)

func TestEveryEntryLoads(t *testing.T) {
	entries, err := library.List()
	require.NoError(t, err)
	require.NotEmpty(t, entries)
	for i, e := range entries {
		text, err := library.Load(e.Name)
		require.NoError(t, err)
		require.NotEmpty(t, text)
		require.Equal(t, e.Name+"/"+library.File, e.Path)
		if i > 0 {
			require.Less(t, entries[i-1].Name, e.Name, "sorted")
		}
	}
}

func TestLoadTakesNamesAlone(t *testing.T) {
	for _, name := range []string{"", "nothing", "sqlite/blueprint.yaml", "../library/sqlite", `..\x`, ".", "..", "embed.go"} {
		_, err := library.Load(name)
		require.Equal(t, fault.User, fault.Of(err), name)
		require.ErrorContains(t, err, "thaw blueprint list", name)
	}
}
