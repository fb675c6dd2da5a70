package driver

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// CreateSnapshot cuts a volume. It is idempotent by name: asked again, it tells
// of the snapshot that is there, and whether that is ready by now.
func (d *Driver) CreateSnapshot(ctx context.Context, r *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if r.GetName() == "" || r.GetSourceVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "create snapshot: it has no name, or no source volume")
	}
	id := idOf("snap", r.GetName())
	defer d.pool.locks.lock(id)()
	switch old, err := load[snapshot](d.pool, "snapshots", id); {
	case err == nil && old.Volume != r.GetSourceVolumeId():
		return nil, status.Errorf(codes.AlreadyExists, "create snapshot %s: there is one of volume %s", r.GetName(), old.Volume)
	case err == nil:
		return &csi.CreateSnapshotResponse{Snapshot: d.describe(old)}, nil
	case !errors.Is(err, errNone):
		return nil, internal(err)
	}
	v, err := load[volume](d.pool, "volumes", r.GetSourceVolumeId())
	if err != nil {
		return nil, missing(err, "volume", r.GetSourceVolumeId())
	}
	if err := d.faults.beforeCut(ctx, v.Claim); err != nil {
		return nil, err
	}
	s := &snapshot{ID: id, Name: r.GetName(), Volume: v.ID, Size: v.Size, Claim: v.Claim}
	at, err := d.cut(s)
	if err != nil {
		return nil, internal(err)
	}
	s.Cut = at.at
	if err := save(d.pool, "snapshots", id, s); err != nil {
		return nil, internal(err)
	}
	if err := d.faults.afterCut(v.Claim); err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: d.describe(s)}, nil
}

// cut makes the snapshot's subvolume.
func (d *Driver) cut(s *snapshot) (cut, error) {
	aim, err := d.aim(s)
	if err != nil {
		return cut{}, err
	}
	if err := aim.fire(); err != nil {
		return cut{}, err
	}
	return subvolumeCut(aim.to)
}

// aim prepares for the cut. A subvolume that is there already was never
// answered: it goes.
func (d *Driver) aim(s *snapshot) (*aimed, error) {
	path := d.pool.snapshotPath(s.ID)
	if err := destroySubvolume(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return aimSnapshot(d.pool.volumePath(s.Volume), path, true)
}

func (d *Driver) ready(s *snapshot) bool { return d.faults.ready(s.Claim, s.Cut) }

func (d *Driver) describe(s *snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Volume, SizeBytes: s.Size, CreationTime: timestamppb.New(s.Cut),
		ReadyToUse: d.ready(s), GroupSnapshotId: s.Group,
	}
}

// DeleteSnapshot is idempotent. A member of a group goes with its group.
func (d *Driver) DeleteSnapshot(_ context.Context, r *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id := r.GetSnapshotId()
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "delete snapshot: it has no identifier")
	}
	defer d.pool.locks.lock(id)()
	s, err := load[snapshot](d.pool, "snapshots", id)
	switch {
	case errors.Is(err, errNone):
		return &csi.DeleteSnapshotResponse{}, nil
	case err != nil:
		return nil, internal(err)
	case s.Group != "":
		return nil, status.Errorf(codes.FailedPrecondition, "delete snapshot %s: it belongs to group snapshot %s, delete that", id, s.Group)
	}
	if err := d.faults.beforeDrop(s.Claim); err != nil {
		return nil, err
	}
	if err := d.drop(id); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func (d *Driver) drop(id string) error {
	path := d.pool.snapshotPath(id)
	if err := destroySubvolume(path); err != nil {
		return err
	}
	if err := os.Remove(filepath.Dir(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return remove(d.pool, "snapshots", id)
}

// Stored is a snapshot that a pool holds, whether or not the cluster knows it.
type Stored struct {
	ID, Namespace, Claim string
	Cut                  time.Time
}

// ListStored lists what the pool in a directory holds, with no driver at work.
func ListStored(dir string) ([]Stored, error) {
	held, err := all[snapshot](&pool{dir: dir}, "snapshots")
	if err != nil {
		return nil, err
	}
	list := make([]Stored, 0, len(held))
	for _, s := range held {
		list = append(list, Stored{ID: s.ID, Namespace: s.Claim.Namespace, Claim: s.Claim.Name, Cut: s.Cut})
	}
	return list, nil
}

// ListSnapshots implements CSI: of one snapshot, one volume, or all, in pages.
func (d *Driver) ListSnapshots(_ context.Context, r *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	list, err := all[snapshot](d.pool, "snapshots")
	if err != nil {
		return nil, internal(err)
	}
	var match []*snapshot
	for _, s := range list {
		if (r.GetSnapshotId() == "" || s.ID == r.GetSnapshotId()) && (r.GetSourceVolumeId() == "" || s.Volume == r.GetSourceVolumeId()) {
			match = append(match, s)
		}
	}
	from := 0
	if t := r.GetStartingToken(); t != "" {
		if from, err = strconv.Atoi(t); err != nil || from < 0 || from > len(match) {
			return nil, status.Errorf(codes.Aborted, "list snapshots: starting token %q is not one of ours", t)
		}
	}
	to := len(match)
	if n := int(r.GetMaxEntries()); n > 0 {
		to = min(to, from+n)
	}
	answer := &csi.ListSnapshotsResponse{}
	for _, s := range match[from:to] {
		answer.Entries = append(answer.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: d.describe(s)})
	}
	if to < len(match) {
		answer.NextToken = strconv.Itoa(to)
	}
	return answer, nil
}
