package activities

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
)

// at opens the location of a profile, for as long as use runs; what use notes
// is logged.
func (e *Engine) at(ctx context.Context, ref plan.Reference, use func(s location.Store, note func(string)) error) error {
	return e.opened(ctx, func() (location.Store, error) {
		p, err := e.profile(ctx, ref)
		if err != nil {
			return nil, err
		}
		return location.Open(ctx, *p)
	}, use)
}

func (e *Engine) opened(ctx context.Context, open func() (location.Store, error), use func(s location.Store, note func(string)) error) (err error) {
	stop := heartbeats(ctx, time.Second, nothing)
	defer stop()
	defer func() { err = e.toTemporal(err) }()
	s, err := open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return use(s, func(text string) { e.log.Debug(text, "location", s.String()) })
}

// passphrase is the worker's secretsKey.
func (e *Engine) passphrase() (string, error) {
	if e.cfg.Key == nil {
		return "", fault.New(fault.Permanent, "restore points in a location are sealed with the worker's secretsKey, and this worker has none")
	}
	return e.cfg.Key()
}

// key is that by which restore points are sealed.
func (e *Engine) key() (points.Key, error) {
	passphrase, err := e.passphrase()
	if err != nil {
		return nil, err
	}
	return points.NewKey(passphrase)
}

// Publish copies a restore point that is recorded to the location of its run's
// profile. Idempotent.
func (e *Engine) Publish(ctx context.Context, rp plan.RestorePoint) error {
	return e.at(ctx, *rp.Profile, func(s location.Store, note func(string)) error {
		key, err := e.key()
		if err != nil {
			return err
		}
		return points.Publish(ctx, s, rp, key, note)
	})
}

// Unpublish removes a restore point from the location of its profile.
// Idempotent.
func (e *Engine) Unpublish(ctx context.Context, ref plan.RestorePointRef) error {
	return e.at(ctx, *ref.Profile, func(s location.Store, note func(string)) error { return points.Remove(ctx, s, ref.ID, note) })
}

// Fetch copies a restore point from a location into the worker's directory of
// restore points, where it is not there, and refuses one that was changed.
// Idempotent.
func (e *Engine) Fetch(ctx context.Context, in plan.FetchInput) error {
	dir, err := e.location(in.Location)
	if err != nil {
		return e.toTemporal(err)
	}
	switch here, err := e.readRestorePoint(in.From, dir); {
	case !plan.ValidRestorePointID(in.From), err == nil && (in.Records || len(here.Files) == 0):
		return nil // or the plan says what is wrong with it
	}
	return e.at(ctx, in.Profile, func(s location.Store, note func(string)) error {
		key, err := e.key()
		if err != nil {
			return err
		}
		fetch := points.Fetch
		if in.Records {
			fetch = points.FetchRecords
		}
		rp, err := fetch(ctx, s, in.From, filepath.Join(dir, in.From), key, note)
		if err != nil {
			return err
		}
		// A profile is named anew where clusters and workers are: the one that
		// it was found by.
		rp.Profile = &in.Profile
		if !in.Records {
			rp.Files = nil
		}
		_, err = e.writeRestorePoint(*rp)
		return err
	})
}
