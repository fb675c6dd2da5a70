package points

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/repository"
	"thaw/internal/teststore"
)

func TestTheDataOfVolumesIsReadBack(t *testing.T) {
	profile := teststore.Directory(t)
	s := open(t, profile)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rel"), make([]byte, 1<<20), 0o600))
	r, err := repository.Open(t.Context(), s, repository.Options{Prefix: "volumes/shop", Passphrase: "secret", Create: true})
	require.NoError(t, err)
	saved, err := r.Save(t.Context(), dir, repository.SaveOptions{Source: "/shop/data", Tag: "one"})
	require.NoError(t, err)
	require.NoError(t, r.Close(context.Background()))

	export := map[string]any{"repository": "volumes/shop", "snapshot": saved.ID}
	of := &plan.RestorePoint{ID: "shop-1", Application: &plan.Application{Volumes: []any{
		map[string]any{"pvc": "data", "namespace": "shop", "export": export},
		map[string]any{"pvc": "uncopied", "namespace": "shop"},
	}}}
	artifact := &plan.RestorePoint{ID: "shop-2", Artifacts: map[string]plan.Artifact{"cluster": {KeyValue: map[string]string{
		"volumes": `[{"pvc":"data","namespace":"shop","export":{"repository":"volumes/shop","snapshot":"` + saved.ID + `"}}]`, "version": "[15",
	}}}}
	want := []Snapshot{{"shop/data", "volumes/shop", saved.ID}}
	verify := func(rp *plan.RestorePoint, passphrase string, share float64) (int64, error) {
		all := &repositories{s, passphrase, map[string]*repository.Repository{}}
		n, err := all.verify(t.Context(), rp, share, quiet)
		require.NoError(t, all.close(context.Background()))
		return n, err
	}
	for _, rp := range []*plan.RestorePoint{of, artifact} {
		require.Equal(t, want, Snapshots(rp))
		n, err := verify(rp, "secret", 1)
		require.NoError(t, err)
		require.EqualValues(t, 1<<20, n)
	}
	_, err = verify(of, "another", 1)
	require.ErrorIs(t, err, repository.ErrPassphrase)

	packs, err := filepath.Glob(filepath.Join(profile.Location.Bucket, "volumes/shop/p*"))
	require.NoError(t, err)
	require.NotEmpty(t, packs)
	for _, p := range packs {
		require.NoError(t, os.Remove(p))
	}
	_, err = verify(of, "secret", 0.01)
	require.Equal(t, fault.Permanent, fault.Of(err), "%v", err)
	require.ErrorContains(t, err, "volume shop/data")
	require.ErrorContains(t, err, "/rel")
}
