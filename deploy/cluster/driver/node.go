package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NodeGetInfo implements CSI.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.node}, nil
}

// NodeGetCapabilities implements CSI.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	r := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		r.Capabilities = append(r.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return r, nil
}

// NodePublishVolume shows a volume at a path. It is idempotent.
func (d *Driver) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	id, target := r.GetVolumeId(), r.GetTargetPath()
	if id == "" || target == "" || r.GetVolumeCapability() == nil {
		return nil, status.Error(codes.InvalidArgument, "publish volume: want a volume, a target path and a capability")
	}
	if err := checkCapabilities([]*csi.VolumeCapability{r.GetVolumeCapability()}); err != nil {
		return nil, err
	}
	if _, err := load[volume](d.pool, "volumes", id); err != nil {
		return nil, missing(err, "volume", id)
	}
	defer d.pool.locks.lock(target)()
	if mounted(target) {
		return &csi.NodePublishVolumeResponse{}, nil
	}
	if m := r.GetVolumeCapability().GetAccessMode().GetMode(); m == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER && published(id) {
		return nil, status.Errorf(codes.FailedPrecondition, "publish volume %s for a single writer: it is published elsewhere", id)
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return nil, internal(fmt.Errorf("publish volume %s: %w", id, err))
	}
	if err := unix.Mount(d.pool.volumePath(id), target, "", unix.MS_BIND, ""); err != nil {
		return nil, internal(fmt.Errorf("publish volume %s at %s: %w", id, target, err))
	}
	if r.GetReadonly() {
		if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return nil, internal(errors.Join(fmt.Errorf("publish volume %s read-only at %s: %w", id, target, err), unix.Unmount(target, unix.MNT_DETACH)))
		}
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// published says whether the volume is mounted anywhere.
func published(id string) bool {
	return slices.ContainsFunc(mounts(), func(m mount) bool { return m.root == "/volumes/"+id })
}

// NodeUnpublishVolume is idempotent.
func (d *Driver) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target := r.GetTargetPath()
	if r.GetVolumeId() == "" || target == "" {
		return nil, status.Error(codes.InvalidArgument, "unpublish volume: want a volume and a target path")
	}
	defer d.pool.locks.lock(target)()
	for mounted(target) {
		if err := unix.Unmount(target, 0); err != nil {
			return nil, internal(fmt.Errorf("unpublish %s: %w", target, err))
		}
	}
	// Not RemoveAll: were it still mounted, that would be the volume's data.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, internal(fmt.Errorf("unpublish: %w", err))
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements CSI.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id, path := r.GetVolumeId(), r.GetVolumePath()
	if id == "" || path == "" {
		return nil, status.Error(codes.InvalidArgument, "volume stats: want a volume and its path")
	}
	v, err := load[volume](d.pool, "volumes", id)
	if err != nil {
		return nil, missing(err, "volume", id)
	}
	if !mounted(path) {
		return nil, status.Errorf(codes.NotFound, "volume stats: %s is not published at %s", id, path)
	}
	used, err := usage(d.pool.volumePath(id))
	if err != nil {
		return nil, internal(err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{
		Unit: csi.VolumeUsage_BYTES, Total: v.Size, Used: used, Available: max(v.Size-used, 0),
	}}}, nil
}

// usage is what a subvolume holds, as of the last commit.
func usage(path string) (int64, error) {
	out, err := exec.Command("btrfs", "qgroup", "show", "--raw", "-f", path).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("usage of %s: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], "0/") {
			continue
		}
		if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("usage of %s: btrfs does not tell it: %s", path, strings.TrimSpace(string(out)))
}
