package driver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// GroupControllerGetCapabilities implements CSI.
func (d *Driver) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
		}},
	}}}, nil
}

// CreateVolumeGroupSnapshot cuts several volumes at one point in time. It is
// idempotent by name.
func (d *Driver) CreateVolumeGroupSnapshot(ctx context.Context, r *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if r.GetName() == "" || len(r.GetSourceVolumeIds()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "create group snapshot: it has no name, or no source volumes")
	}
	id := idOf("group", r.GetName())
	defer d.pool.locks.lock(id)()
	switch old, err := load[group](d.pool, "groups", id); {
	case err == nil:
		g, members, err := d.describeGroup(old)
		if err != nil {
			return nil, internal(err)
		}
		if !sameVolumes(members, r.GetSourceVolumeIds()) {
			return nil, status.Errorf(codes.AlreadyExists, "create group snapshot %s: there is one of other volumes", r.GetName())
		}
		return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: g}, nil
	case !errors.Is(err, errNone):
		return nil, internal(err)
	}
	var members []*snapshot
	for _, source := range r.GetSourceVolumeIds() {
		v, err := load[volume](d.pool, "volumes", source)
		if err != nil {
			return nil, missing(err, "volume", source)
		}
		if err := d.faults.beforeCut(ctx, v.Claim); err != nil {
			return nil, err
		}
		members = append(members, &snapshot{ID: idOf("snap", id+"/"+v.ID), Name: r.GetName(), Volume: v.ID, Size: v.Size, Claim: v.Claim, Group: id})
	}
	at, err := d.cutTogether(ctx, members)
	if err != nil {
		return nil, internal(err)
	}
	g := &group{ID: id, Name: r.GetName(), Cut: at}
	for _, m := range members {
		g.Snapshots = append(g.Snapshots, m.ID)
		if err := save(d.pool, "snapshots", m.ID, m); err != nil {
			return nil, internal(err)
		}
	}
	if err := save(d.pool, "groups", id, g); err != nil {
		return nil, internal(err)
	}
	for _, m := range members {
		if err := d.faults.afterCut(m.Claim); err != nil {
			return nil, err
		}
	}
	described, _, err := d.describeGroup(g)
	if err != nil {
		return nil, internal(err)
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: described}, nil
}

// groupAttempts: the first one succeeds nearly always.
const groupAttempts = 200

// cutTogether cuts all at one point in time. btrfs makes all snapshots that are
// asked for within one transaction when that commits, while nothing can write.
// Nobody can choose the transaction, but one can see afterwards which it was:
// so it is tried until all are of the same.
func (d *Driver) cutTogether(ctx context.Context, members []*snapshot) (time.Time, error) {
	for range groupAttempts {
		if err := ctx.Err(); err != nil {
			return time.Time{}, fmt.Errorf("cut %d volumes at one point in time: %w", len(members), err)
		}
		// What is dirty is written first: else one waits for that, and another
		// does not.
		if err := d.pool.sync(); err != nil {
			return time.Time{}, err
		}
		var aims []*aimed
		for _, m := range members {
			a, err := d.aim(m)
			if err != nil {
				return time.Time{}, err
			}
			aims = append(aims, a)
		}
		// While one transaction is written, those that want to begin the next
		// wait, and begin it together.
		now := time.Now()
		if err := errors.Join(os.Chtimes(d.pool.dir, now, now), startCommit(d.pool.dir)); err != nil {
			return time.Time{}, err
		}
		cuts, err := volley(aims)
		if err != nil {
			return time.Time{}, err
		}
		if !slices.ContainsFunc(cuts, func(c cut) bool { return c.transaction != cuts[0].transaction }) {
			for _, m := range members {
				m.Cut = cuts[0].at
			}
			return cuts[0].at, nil
		}
	}
	return time.Time{}, fmt.Errorf("cut %d volumes at one point in time: not reached in %d attempts; try again when there is less load", len(members), groupAttempts)
}

// volley fires all at once, each from a thread that is ready to.
func volley(aims []*aimed) ([]cut, error) {
	cuts, errs := make([]cut, len(aims)), make([]error, len(aims))
	var waiting atomic.Int64
	var done sync.WaitGroup
	for i, a := range aims {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			waiting.Add(1)
			for waiting.Load() < int64(len(aims)) {
				runtime.Gosched()
			}
			if errs[i] = a.fire(); errs[i] == nil {
				cuts[i], errs[i] = subvolumeCut(a.to)
			}
		})
	}
	done.Wait()
	return cuts, errors.Join(errs...)
}

func sameVolumes(members []*snapshot, ids []string) bool {
	want := map[string]bool{}
	for _, id := range ids {
		want[id] = true
	}
	for _, m := range members {
		if !want[m.Volume] {
			return false
		}
		delete(want, m.Volume)
	}
	return len(want) == 0
}

func (d *Driver) describeGroup(g *group) (*csi.VolumeGroupSnapshot, []*snapshot, error) {
	r := &csi.VolumeGroupSnapshot{GroupSnapshotId: g.ID, CreationTime: timestamppb.New(g.Cut), ReadyToUse: true}
	var members []*snapshot
	for _, id := range g.Snapshots {
		s, err := load[snapshot](d.pool, "snapshots", id)
		if err != nil {
			return nil, nil, fmt.Errorf("group snapshot %s: member %s: %w", g.ID, id, err)
		}
		c := d.describe(s)
		members, r.Snapshots = append(members, s), append(r.Snapshots, c)
		r.ReadyToUse = r.ReadyToUse && c.ReadyToUse
	}
	return r, members, nil
}

// DeleteVolumeGroupSnapshot is idempotent.
func (d *Driver) DeleteVolumeGroupSnapshot(_ context.Context, r *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id := r.GetGroupSnapshotId()
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "delete group snapshot: it has no identifier")
	}
	defer d.pool.locks.lock(id)()
	g, err := load[group](d.pool, "groups", id)
	switch {
	case errors.Is(err, errNone):
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	case err != nil:
		return nil, internal(err)
	}
	for _, s := range g.Snapshots {
		if err := d.drop(s); err != nil {
			return nil, internal(err)
		}
	}
	if err := remove(d.pool, "groups", id); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// GetVolumeGroupSnapshot implements CSI.
func (d *Driver) GetVolumeGroupSnapshot(_ context.Context, r *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	if r.GetGroupSnapshotId() == "" {
		return nil, status.Error(codes.InvalidArgument, "get group snapshot: it has no identifier")
	}
	g, err := load[group](d.pool, "groups", r.GetGroupSnapshotId())
	if err != nil {
		return nil, missing(err, "group snapshot", r.GetGroupSnapshotId())
	}
	described, _, err := d.describeGroup(g)
	if err != nil {
		return nil, internal(err)
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: described}, nil
}
