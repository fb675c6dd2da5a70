package driver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	gib         = 1 << 30
	defaultSize = gib
	minimumSize = 16 << 20

	claimName      = "csi.storage.k8s.io/pvc/name"
	claimNamespace = "csi.storage.k8s.io/pvc/namespace"
)

// ControllerGetCapabilities implements CSI.
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	r := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}}})
	}
	return r, nil
}

// CreateVolume makes an empty volume, or a clone of a volume or snapshot. It is
// idempotent by name.
func (d *Driver) CreateVolume(ctx context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" {
		return nil, status.Error(codes.InvalidArgument, "create volume: it has no name")
	}
	if err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return nil, err
	}
	size, err := d.size(r.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	v := &volume{
		ID: idOf("vol", r.GetName()), Name: r.GetName(), Size: size, Source: sourceOf(r.GetVolumeContentSource()),
		Claim: Claim{Namespace: r.GetParameters()[claimNamespace], Name: r.GetParameters()[claimName]},
	}
	if err := d.faults.beforeMake(ctx, v.Claim); err != nil {
		return nil, err
	}
	defer d.pool.locks.lock(v.ID)()
	switch old, err := load[volume](d.pool, "volumes", v.ID); {
	case err == nil:
		limit := r.GetCapacityRange().GetLimitBytes()
		if old.Size < r.GetCapacityRange().GetRequiredBytes() || (limit > 0 && old.Size > limit) || old.Source != v.Source {
			return nil, status.Errorf(codes.AlreadyExists, "create volume %s: there is one of %d bytes from %q", v.Name, old.Size, old.Source)
		}
		return answer(old, r), nil
	case !errors.Is(err, errNone):
		return nil, internal(err)
	}
	from, err := d.source(r.GetVolumeContentSource(), size)
	if err != nil {
		return nil, err
	}
	path := d.pool.volumePath(v.ID)
	// Half of one, by a driver that died here: it was never answered.
	if err := destroySubvolume(path); err != nil {
		return nil, internal(err)
	}
	if from == "" {
		err = createSubvolume(path)
	} else {
		err = snapshotSubvolume(from, path, false)
	}
	if err != nil {
		return nil, internal(err)
	}
	if err := limitSubvolume(path, size); err != nil {
		return nil, internal(err)
	}
	if err := save(d.pool, "volumes", v.ID, v); err != nil {
		return nil, internal(err)
	}
	return answer(v, r), nil
}

func answer(v *volume, r *csi.CreateVolumeRequest) *csi.CreateVolumeResponse {
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: v.ID, CapacityBytes: v.Size, ContentSource: r.GetVolumeContentSource()}}
}

func (d *Driver) size(r *csi.CapacityRange) (int64, error) {
	need, limit := r.GetRequiredBytes(), r.GetLimitBytes()
	size := max(need, minimumSize)
	if need == 0 {
		size = defaultSize
		if limit > 0 {
			size = min(size, limit)
		}
	}
	total, _, err := d.space()
	if err != nil {
		return 0, internal(err)
	}
	if need < 0 || limit < 0 || (limit > 0 && limit < size) || size > total {
		return 0, status.Errorf(codes.OutOfRange, "a volume of %d bytes at least, %d at most: want between %d and %d", need, limit, minimumSize, total)
	}
	return size, nil
}

// space is what the pool has in all, and what of it is free.
func (d *Driver) space() (total, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.pool.dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look at pool %s: %w", d.pool.dir, err)
	}
	return int64(st.Blocks) * st.Bsize, int64(st.Bavail) * st.Bsize, nil
}

func sourceOf(s *csi.VolumeContentSource) string {
	if s.GetSnapshot() != nil {
		return s.GetSnapshot().GetSnapshotId()
	}
	return s.GetVolume().GetVolumeId()
}

// source is the subvolume that a new volume of that size begins as.
func (d *Driver) source(s *csi.VolumeContentSource, size int64) (path string, err error) {
	var have int64
	switch {
	case s == nil:
		return "", nil
	case s.GetSnapshot() != nil:
		snap, err := load[snapshot](d.pool, "snapshots", s.GetSnapshot().GetSnapshotId())
		if err != nil {
			return "", missing(err, "snapshot", s.GetSnapshot().GetSnapshotId())
		}
		if !d.ready(snap) {
			return "", status.Errorf(codes.Unavailable, "create volume: snapshot %s is not ready yet", snap.ID)
		}
		path, have = d.pool.snapshotPath(snap.ID), snap.Size
	case s.GetVolume() != nil:
		v, err := load[volume](d.pool, "volumes", s.GetVolume().GetVolumeId())
		if err != nil {
			return "", missing(err, "volume", s.GetVolume().GetVolumeId())
		}
		path, have = d.pool.volumePath(v.ID), v.Size
	default:
		return "", status.Error(codes.InvalidArgument, "create volume: its source is neither a snapshot nor a volume")
	}
	if size < have {
		return "", status.Errorf(codes.OutOfRange, "create volume of %d bytes: its source has %d", size, have)
	}
	return path, nil
}

// DeleteVolume is idempotent. Snapshots and clones of the volume stay.
func (d *Driver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := r.GetVolumeId()
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "delete volume: it has no identifier")
	}
	defer d.pool.locks.lock(id)()
	switch _, err := load[volume](d.pool, "volumes", id); {
	case errors.Is(err, errNone):
		return &csi.DeleteVolumeResponse{}, nil
	case err != nil:
		return nil, internal(err)
	}
	if err := destroySubvolume(d.pool.volumePath(id)); err != nil {
		return nil, internal(err)
	}
	if err := remove(d.pool, "volumes", id); err != nil {
		return nil, internal(err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ValidateVolumeCapabilities implements CSI.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "validate capabilities: the volume has no identifier")
	}
	if len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "validate capabilities: none given")
	}
	if _, err := load[volume](d.pool, "volumes", r.GetVolumeId()); err != nil {
		return nil, missing(err, "volume", r.GetVolumeId())
	}
	if err := checkCapabilities(r.GetVolumeCapabilities()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: r.GetVolumeContext(), VolumeCapabilities: r.GetVolumeCapabilities(), Parameters: r.GetParameters(),
	}}, nil
}

// GetCapacity implements CSI.
func (d *Driver) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	_, free, err := d.space()
	if err != nil {
		return nil, internal(err)
	}
	return &csi.GetCapacityResponse{AvailableCapacity: free}, nil
}

// checkCapabilities: a volume is a directory of the one node, so every access
// mode can be had, and no block device.
func checkCapabilities(cs []*csi.VolumeCapability) error {
	if len(cs) == 0 {
		return status.Error(codes.InvalidArgument, "the volume has no capabilities")
	}
	for _, c := range cs {
		if c.GetBlock() != nil {
			return status.Error(codes.InvalidArgument, "block volumes are not supported: set volumeMode to Filesystem")
		}
		if c.GetMount() == nil || c.GetAccessMode() == nil {
			return status.Error(codes.InvalidArgument, "a capability has no access type or mode")
		}
	}
	return nil
}

func internal(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

func missing(err error, kind, id string) error {
	if errors.Is(err, errNone) || errors.Is(err, os.ErrNotExist) {
		return status.Errorf(codes.NotFound, "%s %s: not found", kind, id)
	}
	return internal(err)
}
