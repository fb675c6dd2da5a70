package keyfiles_test

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"thaw/activities/cluster/manifests"
	"thaw/internal/keyfiles"
)

// What a worker makes, the command line reads as the worker does.
func TestAWorkersKeyIsReadAsTheWorkerReadsIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets.key")
	id, err := manifests.Identity(file)
	require.NoError(t, err)
	got, err := keyfiles.Passphrase(file)
	require.NoError(t, err)
	require.Equal(t, id.String(), got)
}

func TestWhatIsNoKeyIsRefusedWithoutBeingShown(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	for name, text := range map[string]string{"cut": id.String()[:40], "empty": "# nothing\n", "another": "passphrase"} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "key")
			require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			_, err := keyfiles.Passphrase(file)
			require.ErrorContains(t, err, "AGE-SECRET-KEY-1...")
			require.NotContains(t, err.Error(), id.String()[16:40])
		})
	}
	_, err = keyfiles.Passphrase(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
