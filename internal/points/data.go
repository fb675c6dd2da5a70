package points

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/repository"
)

// Snapshot is the data of a volume, in a repository of the same location.
type Snapshot struct {
	Volume     string // namespace/claim
	Repository string
	ID         string
}

// Snapshots are those of the volumes that a restore point has in its location:
// of an application, or in an artifact, as ExportVolumes put them out.
func Snapshots(rp *plan.RestorePoint) (all []Snapshot) {
	type volume struct {
		PVC       string `json:"pvc"`
		Namespace string `json:"namespace"`
		Export    *struct {
			Repository string `json:"repository"`
			Snapshot   string `json:"snapshot"`
		} `json:"export"`
	}
	take := func(text []byte) {
		var volumes []volume
		if json.Unmarshal(text, &volumes) != nil {
			return // it is something else
		}
		for _, v := range volumes {
			if v.Export != nil && v.Export.Snapshot != "" {
				all = append(all, Snapshot{v.Namespace + "/" + v.PVC, v.Export.Repository, v.Export.Snapshot})
			}
		}
	}
	if rp.Application != nil {
		if text, err := json.Marshal(rp.Application.Volumes); err == nil {
			take(text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rp.Artifacts)) {
		of := rp.Artifacts[name].KeyValue
		for _, key := range slices.Sorted(maps.Keys(of)) {
			if strings.HasPrefix(strings.TrimSpace(of[key]), "[") {
				take([]byte(of[key]))
			}
		}
	}
	return all
}

// VerifyData reads back that share of the data of a restore point's volumes,
// and says all that is wrong with it. passphrase is that of the repositories.
// It returns how many bytes it read.
func VerifyData(ctx context.Context, s location.Store, rp *plan.RestorePoint, passphrase string, share float64, note func(string)) (read int64, err error) {
	opened := map[string]*repository.Repository{}
	defer func() {
		for _, r := range opened {
			err = errors.Join(err, r.Close(ctx))
		}
	}()
	var wrong []error
	for _, of := range Snapshots(rp) {
		r := opened[of.Repository]
		if r == nil {
			if r, err = repository.Open(ctx, s, repository.Options{Prefix: of.Repository, Passphrase: passphrase}); err != nil {
				if away(ctx, err) || errors.Is(err, repository.ErrPassphrase) {
					return read, err
				}
				wrong = append(wrong, fmt.Errorf("volume %s: %w", of.Volume, err))
				continue
			}
			opened[of.Repository] = r
		}
		p, err := r.Verify(ctx, of.ID, 100*share)
		read += p.Bytes
		switch {
		case err == nil:
			note(fmt.Sprintf("verified volume %s: %d of %d bytes read", of.Volume, p.Bytes, p.Total))
		case away(ctx, err):
			return read, err
		default:
			wrong = append(wrong, fmt.Errorf("volume %s: %w", of.Volume, err))
		}
	}
	return read, errors.Join(wrong...)
}
