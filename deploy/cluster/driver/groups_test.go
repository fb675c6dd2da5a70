package driver_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func dial(t *testing.T, dir string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+filepath.Join(dir, "csi.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var mountCapability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

func makeVolume(t *testing.T, c csi.ControllerClient, name string, size int64) string {
	t.Helper()
	v, err := c.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csi.VolumeCapability{mountCapability},
		Parameters: map[string]string{"csi.storage.k8s.io/pvc/name": name, "csi.storage.k8s.io/pvc/namespace": "shop"},
	})
	require.NoError(t, err)
	return v.GetVolume().GetVolumeId()
}

// A writer writes each number to one volume, syncs it, and only then goes to the
// next, as a database does that has its log on another volume than its data: in
// a group snapshot none may be ahead of the one before it.
func TestGroupSnapshotIsOnePointInTimeUnderWrites(t *testing.T) {
	dir := start(t, "")
	conn := dial(t, dir)
	volumes := csi.NewControllerClient(conn)
	const n = 3
	var ids []string
	for i := range n {
		ids = append(ids, makeVolume(t, volumes, fmt.Sprintf("data-%d", i), 256<<20))
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var files []*os.File
	for _, id := range ids {
		f, err := os.Create(filepath.Join(dir, "pool/volumes", id, "counter"))
		require.NoError(t, err)
		files = append(files, f)
	}
	go func() {
		defer close(done)
		for i := int64(1); ctx.Err() == nil; i++ {
			for _, f := range files {
				_, err := f.WriteAt(fmt.Appendf(nil, "%020d", i), 0)
				if err := errors.Join(err, f.Sync()); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	defer func() {
		stop()
		require.NoError(t, <-done)
		for _, f := range files {
			require.NoError(t, f.Close())
		}
	}()
	for i := range 20 {
		start := time.Now()
		g, err := csi.NewGroupControllerClient(conn).CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: fmt.Sprintf("group-%d", i), SourceVolumeIds: ids})
		require.NoError(t, err)
		t.Logf("group snapshot took %s", time.Since(start))
		at := map[string]int64{}
		for _, s := range g.GetGroupSnapshot().GetSnapshots() {
			b, err := os.ReadFile(filepath.Join(dir, "pool/snapshots", s.GetSnapshotId(), "data/counter"))
			require.NoError(t, err)
			at[s.GetSourceVolumeId()], err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			require.NoError(t, err)
		}
		first := at[ids[0]]
		for _, id := range ids {
			require.LessOrEqual(t, at[id], first, "a volume has a number that the first had not got yet: %v", at)
			require.GreaterOrEqual(t, at[id], first-1, "a volume has not got a number that was there before the first's last: %v", at)
		}
	}
}
