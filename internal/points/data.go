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

// repositories of a location, each opened once, whose snapshots are read back.
type repositories struct {
	s          location.Store
	passphrase string
	opened     map[string]*repository.Repository
}

func (r *repositories) close(ctx context.Context) (err error) {
	for _, o := range r.opened {
		err = errors.Join(err, o.Close(ctx))
	}
	return err
}

func (r *repositories) open(ctx context.Context, path string) (*repository.Repository, error) {
	if o := r.opened[path]; o != nil {
		return o, nil
	}
	o, err := repository.Open(ctx, r.s, repository.Options{Prefix: path, Passphrase: r.passphrase})
	if err == nil {
		r.opened[path] = o
	}
	return o, err
}

// verify reads back that share of the data of a restore point's volumes, and
// says all that is wrong with it. It returns how many bytes it read.
func (r *repositories) verify(ctx context.Context, rp *plan.RestorePoint, share float64, note func(string)) (read int64, err error) {
	var wrong []error
	for _, of := range Snapshots(rp) {
		o, err := r.open(ctx, of.Repository)
		if errors.Is(err, repository.ErrPassphrase) {
			return read, err
		}
		var p repository.Progress
		if err == nil {
			p, err = o.Verify(ctx, of.ID, 100*share)
		}
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
