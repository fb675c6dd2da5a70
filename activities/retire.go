package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"thaw/blueprints"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/retention"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/repository"
)

const (
	// undoWindow is how long a restore point is only marked by default: a long
	// weekend.
	undoWindow = 72 * time.Hour
	// What one run does at most: its history and its report have to stay small.
	// The next run goes on.
	mostDeleted = 500
	mostMarked  = 1000
	mostShown   = 1000
)

// PlanRetire says what a request retires now. It changes nothing, and reads no
// restore point of a location profile.
func (e *Engine) PlanRetire(ctx context.Context, in plan.RetireInput) (out *plan.RetirePlan, err error) {
	req := in.Request
	if err := req.Keep.Validate(); err != nil {
		return nil, e.toTemporal(fault.New(fault.User, "%w", err))
	}
	if req.UndoWindow != nil && *req.UndoWindow < 0 {
		return nil, e.toTemporal(fault.New(fault.User, "undoWindow %s: want a duration such as 72h, or 0s for none", req.UndoWindow.D()))
	}
	err = e.in(ctx, req, func(s location.Store, _ func(string)) error {
		list, err := e.states(ctx, s, req)
		if err != nil {
			return err
		}
		if out, err = decide(list, in); err != nil {
			return fault.New(fault.User, "%w", err)
		}
		out.Report.Location = s.String()
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.Attributes = e.hasAttributes(ctx)
	return out, nil
}

// in opens what a request is about: the location of its profile, or a
// directory.
func (e *Engine) in(ctx context.Context, req plan.RetireRequest, use func(s location.Store, note func(string)) error) error {
	if req.Profile != nil {
		return e.at(ctx, *req.Profile, use)
	}
	dir, err := e.location(req.Location)
	if err != nil {
		return e.toTemporal(err)
	}
	return e.opened(ctx, func() (location.Store, error) { return points.Directory(ctx, dir) }, use)
}

// states are the restore points that a request is about. Of a directory those
// that are there alone: what is in a location is retired by its profile.
func (e *Engine) states(ctx context.Context, s location.Store, req plan.RetireRequest) ([]points.State, error) {
	if req.Profile != nil {
		key, err := e.key()
		if err != nil {
			return nil, err
		}
		return points.States(ctx, s, key)
	}
	dir, err := e.location(req.Location)
	if err != nil {
		return nil, err
	}
	marks, err := points.AllMarks(ctx, s)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", plan.RestorePointFile))
	if err != nil {
		return nil, fault.New(fault.User, "location %s: %w", dir, err)
	}
	var list []points.State
	for _, f := range files {
		rp, err := e.readRestorePoint(filepath.Dir(f), dir)
		if err != nil {
			return nil, err
		}
		if rp.Profile == nil && filepath.Base(rp.Directory) == rp.ID {
			list = append(list, points.State{Entry: points.EntryOf(rp), Marks: marks[rp.ID]})
		}
	}
	return list, nil
}

// decide applies the rule to each target and blueprint by itself.
func decide(list []points.State, in plan.RetireInput) (*plan.RetirePlan, error) {
	req := in.Request
	d := &deciding{now: in.Time, until: in.Time.Add(undoWindow), plan: &plan.RetirePlan{Report: plan.RetireReport{DryRun: req.DryRun}}}
	type group struct{ target, blueprint string }
	groups, byID := map[group][]retention.Entry{}, map[string]points.State{}
	for _, st := range list {
		if req.Target != "" && req.Target != st.Target || req.Blueprint != "" && req.Blueprint != st.Blueprint {
			continue
		}
		if _, twice := byID[st.ID]; twice || st.Forged {
			d.refuse(st)
			continue
		}
		g := group{st.Target, st.Blueprint}
		groups[g] = append(groups[g], retention.Entry{ID: st.ID, CompletedAt: st.CompletedAt, Good: st.Consistent, Proven: !st.Proven.IsZero()})
		byID[st.ID] = st
	}
	if req.UndoWindow != nil {
		d.until = in.Time.Add(req.UndoWindow.D())
	}
	for _, entries := range groups {
		verdicts, err := req.Keep.Apply(entries)
		if err != nil {
			return nil, err
		}
		for _, v := range verdicts {
			d.take(byID[v.ID], v)
		}
	}
	return d.done(), nil
}

// deciding collects what is to be done.
type deciding struct {
	now, until time.Time
	plan       *plan.RetirePlan
}

// refuse leaves out what could push true restore points out of their places.
func (d *deciding) refuse(st points.State) {
	d.plan.Report.Failed = append(d.plan.Report.Failed, plan.Retired{
		ID: st.ID, Target: st.Target, Blueprint: st.Blueprint, CompletedAt: st.CompletedAt,
		Why: []string{"its entry in the index is not of a worker with this secretsKey, and is not counted; if you trust it: thaw restorepoint seal; if there is no such restore point: thaw gc"},
	})
}

func (d *deciding) take(st points.State, v retention.Verdict) {
	one := plan.Retired{ID: st.ID, Target: st.Target, Blueprint: st.Blueprint, CompletedAt: st.CompletedAt, Why: v.Reasons}
	r := &d.plan.Report
	if !st.Kept.IsZero() {
		one.Why = append(one.Why, "kept by hand")
		r.Kept = append(r.Kept, one)
		return
	}
	if v.Keep {
		r.Kept = append(r.Kept, one)
		if !st.Retiring.IsZero() {
			r.Undone = append(r.Undone, one)
		}
		return
	}
	one.Why = []string{"no count keeps it"}
	switch one.Until = st.Retiring; {
	case st.Retiring.IsZero():
		one.Until = d.until
		d.plan.Mark = append(d.plan.Mark, one)
	case st.Retiring.After(d.now):
		r.Waiting = append(r.Waiting, one)
	default:
		d.plan.Due = append(d.plan.Due, one)
	}
}

// done puts all in order, and leaves to the next run what is too much for one.
func (d *deciding) done() *plan.RetirePlan {
	p, r := d.plan, &d.plan.Report
	for _, l := range []*[]plan.Retired{&r.Kept, &r.Waiting, &r.Undone, &r.Failed, &p.Mark, &p.Due} {
		slices.SortFunc(*l, func(a, b plan.Retired) int {
			return cmp.Or(cmp.Compare(a.Target, b.Target), cmp.Compare(a.Blueprint, b.Blueprint), a.CompletedAt.Compare(b.CompletedAt), cmp.Compare(a.ID, b.ID))
		})
	}
	cut := func(l *[]plan.Retired, most int) (more int) {
		if more = len(*l) - most; more > 0 {
			*l = (*l)[:most]
		}
		return max(more, 0)
	}
	r.MoreKept = cut(&r.Kept, mostShown)
	r.Postponed = cut(&p.Mark, mostMarked) + cut(&r.Undone, mostMarked)
	_ = cut(&r.Waiting, mostShown)
	_ = cut(&r.Failed, mostShown)
	if d.until.After(d.now) {
		r.Marked = p.Mark
	} else {
		p.Due = append(p.Due, p.Mark...) // there is no window to wait for
	}
	r.Postponed += cut(&p.Due, mostDeleted)
	return p
}

// MarkRetiring marks what is to be deleted when its window is over, and takes
// the marks away from what is kept again. Idempotent.
func (e *Engine) MarkRetiring(ctx context.Context, in plan.RetireMarks) error {
	return e.in(ctx, in.Request, func(s location.Store, _ func(string)) error {
		m := points.Mark{At: in.Time, By: in.Request.RequestedBy, Run: in.Run.ID}
		for _, r := range in.Undo {
			m.Reason = "kept again: " + strings.Join(r.Why, ", ")
			if err := points.Undo(ctx, s, r.ID, m); err != nil {
				return err
			}
		}
		for _, r := range in.Mark {
			m.Reason, m.Until = strings.Join(r.Why, ", "), r.Until
			if had, err := points.MarksOf(ctx, s, r.ID); err != nil || !had.Kept.IsZero() || !had.Retiring.IsZero() {
				if err != nil {
					return err
				}
				continue // somebody was faster, or an earlier attempt
			}
			if err := points.Retire(ctx, s, r.ID, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// PlanDeletion says how a restore point that is due is deleted. It looks again
// whether it is to be: a person may have decided otherwise since the plan.
func (e *Engine) PlanDeletion(ctx context.Context, in plan.DeletionInput) (*plan.Deletion, error) {
	out := &plan.Deletion{}
	err := e.in(ctx, in.Request, func(s location.Store, _ func(string)) error {
		marks, err := points.MarksOf(ctx, s, in.Point.ID)
		switch {
		case err != nil:
			return err
		case !marks.Kept.IsZero():
			out.Kept = "kept by hand meanwhile"
			return nil
		case marks.Retiring.IsZero(), marks.Retiring.After(in.Time):
			out.Kept = "its mark was taken away meanwhile"
			return nil
		}
		rp, err := e.due(ctx, s, in, out)
		if err != nil && fault.Of(err) != fault.Transient && ctx.Err() == nil {
			out.Problem = e.redact.Text(err.Error())
			return nil
		}
		if err == nil && out.Locked.IsZero() {
			e.deletion(rp, in, out)
		}
		return err
	})
	return out, err
}

// due reads the record of a restore point that is to be deleted.
func (e *Engine) due(ctx context.Context, s location.Store, in plan.DeletionInput, out *plan.Deletion) (*plan.RestorePoint, error) {
	if in.Request.Profile == nil {
		dir, err := e.location(in.Request.Location)
		if err != nil {
			return nil, err
		}
		return e.readRestorePoint(in.Point.ID, dir)
	}
	key, err := e.key()
	if err != nil {
		return nil, err
	}
	rp, err := points.Read(ctx, s, in.Point.ID, key)
	if err != nil {
		return nil, err
	}
	// Its entry says what retention counts it as.
	o, err := points.Listed(ctx, s, rp, key)
	if err != nil {
		return nil, err
	}
	// The entry was written last: when its lock has ended, so have the others'.
	// Whether the store has a longer one is known when it refuses the deletion.
	if lock := s.Lock(); lock.Mode != "" {
		if until := o.Modified.Add(lock.For + time.Second); until.After(in.Time) {
			out.Locked = until
		}
	}
	return rp, nil
}

// deletion is what deletes the data of a restore point: the action of the
// blueprint that made it.
func (e *Engine) deletion(rp *plan.RestorePoint, in plan.DeletionInput, out *plan.Deletion) {
	by := &plan.Request{
		Blueprint: rp.Blueprint, BlueprintText: rp.BlueprintText, Action: plan.ActionDelete, From: rp.ID, Target: rp.Target, Options: rp.Options,
		Profile: in.Request.Profile, Location: in.Request.Location, NoApproval: true, RequestedBy: in.Request.RequestedBy,
	}
	if in.Request.Profile == nil { // that of this worker, whoever does it
		by.Location = filepath.Dir(rp.Directory)
	}
	if rp.Application != nil {
		by.Blueprint, by.BlueprintText = "application", ""
		out.Request = by
		return
	}
	bp, faults := blueprints.Parse(rp.Blueprint, []byte(rp.BlueprintText))
	if err := faults.Err(); err != nil {
		out.Problem = "the blueprint in its record is not read by this release: " + e.redact.Text(err.Error())
		return
	}
	action, ok := bp.Action(plan.ActionDelete)
	switch {
	case ok && action.Approval != nil && !action.Approval.Optional:
		out.Problem = fmt.Sprintf("its delete action asks for an approval: run it by hand: thaw run %s.delete --from %s", rp.Blueprint, rp.ID)
	case ok:
		out.Request = by
	case len(rp.Artifacts) > 0:
		out.Problem = "its data has no delete action: delete it by hand, then: thaw restorepoint forget " + rp.ID
	default:
		out.Record = &plan.RestorePointRef{ID: rp.ID, Directory: rp.Directory, Profile: in.Request.Profile}
		if dir, err := e.location(in.Request.Location); err == nil && in.Request.Profile != nil {
			out.Record.Directory = filepath.Join(dir, rp.ID)
		}
	}
}

// Maintain frees what no snapshot needs in the repositories of a location, as
// far as they open with this worker's key. Idempotent.
func (e *Engine) Maintain(ctx context.Context, in plan.RetireInput) (all []plan.Maintained, err error) {
	if in.Request.Profile == nil {
		return nil, nil
	}
	err = e.at(ctx, *in.Request.Profile, func(s location.Store, note func(string)) error {
		paths, err := points.Repositories(ctx, s)
		if err != nil || len(paths) == 0 {
			return err
		}
		passphrase, err := e.passphrase()
		if err != nil {
			return err
		}
		for _, path := range paths {
			m := plan.Maintained{Path: path}
			var done repository.Maintained
			err := repository.With(ctx, s, repository.Options{Prefix: path, Passphrase: passphrase}, func(r *repository.Repository) (err error) {
				done, err = r.Maintain(ctx)
				return err
			})
			m.Freed, m.Locked = done.Freed, done.Locked
			if !done.Until.IsZero() {
				m.LockedUntil = &done.Until
			}
			switch {
			case err == nil:
			case ctx.Err() != nil, fault.Of(err) == fault.Transient:
				return err
			case errors.Is(err, repository.ErrPassphrase):
				m.Skipped = "it opens with another passphrase than the worker's secretsKey: DeleteData with reclaimSpace frees its space"
			case errors.Is(err, location.ErrLocked):
				m.Skipped = e.redact.Text(err.Error())
			default:
				m.Failed = e.redact.Text(err.Error())
			}
			note("maintained " + path)
			all = append(all, m)
		}
		return nil
	})
	return all, err
}
