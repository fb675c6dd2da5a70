package activities

import (
	"context"
	"fmt"
	"slices"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
)

// Verify reads restore points of a location back, and marks those as proven of
// which all was read, and is whole. One that is damaged is in the report.
func (e *Engine) Verify(ctx context.Context, in plan.VerifyInput) (*plan.VerifyReport, error) {
	var out *plan.VerifyReport
	err := e.at(ctx, in.Request.Profile, func(s location.Store, note func(string)) (err error) {
		out, err = e.verify(ctx, s, in, note)
		return err
	})
	return out, err
}

func (e *Engine) verify(ctx context.Context, s location.Store, in plan.VerifyInput, note func(string)) (*plan.VerifyReport, error) {
	sample, err := points.SampleOf(in.Request.Sample, in.Time)
	if err != nil {
		return nil, fault.New(fault.User, "sample %w", err)
	}
	if in.Request.Last < 0 {
		return nil, fault.New(fault.User, "last %d: want a number of restore points, or none for all", in.Request.Last)
	}
	passphrase, err := e.passphrase()
	if err != nil {
		return nil, err
	}
	key, err := points.NewKey(passphrase)
	if err != nil {
		return nil, err
	}
	list, err := points.List(ctx, s)
	if err != nil {
		return nil, err
	}
	ids := newest(list, in.Request)
	if len(ids) == 0 {
		return nil, fault.New(fault.User, "%s has no restore point of target %q and blueprint %q: nothing was verified", s, in.Request.Target, in.Request.Blueprint)
	}
	checked, err := points.Verify(ctx, s, ids, key, passphrase, sample, note)
	if err != nil {
		return nil, err
	}
	out := &plan.VerifyReport{Location: s.String()}
	for i := range checked {
		c := &checked[i]
		v := plan.Verified{ID: c.ID, Bytes: c.Bytes + c.VolumeBytes, Says: e.redact.Text(c.String())}
		if c.Err != nil {
			out.Damaged = append(out.Damaged, v)
			continue
		}
		if c.Whole && sample == nil { // a sample of a small one can be all of it by chance
			mark := points.Mark{At: in.Time, By: in.Run.ID, Reason: "verified"}
			if err := points.Prove(ctx, s, c.ID, mark); err != nil {
				return nil, fmt.Errorf("restore point %q is whole, and cannot be marked as proven: %w", c.ID, err)
			}
			v.Proven = true
		}
		out.Verified = append(out.Verified, v)
	}
	return out, nil
}

// newest are the restore points that a request is about, the newest first.
func newest(list []points.Entry, req plan.VerifyRequest) (ids []string) {
	type group struct{ target, blueprint string }
	seen := map[group]int{}
	for _, p := range slices.Backward(list) {
		if req.Target != "" && req.Target != p.Target || req.Blueprint != "" && req.Blueprint != p.Blueprint {
			continue
		}
		g := group{p.Target, p.Blueprint}
		if seen[g]++; req.Last == 0 || seen[g] <= req.Last {
			ids = append(ids, p.ID)
		}
	}
	return ids
}
