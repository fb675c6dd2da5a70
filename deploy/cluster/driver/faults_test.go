package driver_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"thaw/deploy/cluster/driver"
)

func TestFaults(t *testing.T) {
	file := driver.FaultFile(filepath.Join(t.TempDir(), "faults.json"))
	c := csi.NewControllerClient(dial(t, start(t, file)))
	volume := makeVolume(t, c, "data-0", 64<<20) // of the claim shop/data-0
	cut := func(name string, within time.Duration) (*csi.Snapshot, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		s, err := c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
		return s.GetSnapshot(), err
	}
	const minute = time.Minute
	type outcome struct {
		code  codes.Code
		ready bool
	}
	for i, tt := range []struct {
		name         string
		fault        driver.Fault
		within       time.Duration
		first, again outcome
	}{
		{"none", driver.Fault{}, minute, outcome{ready: true}, outcome{ready: true}},
		{"of another namespace", driver.Fault{Namespace: "other", FailCut: true}, minute, outcome{ready: true}, outcome{ready: true}},
		{"of another claim", driver.Fault{Namespace: "shop", Claim: "log-*", FailCut: true}, minute, outcome{ready: true}, outcome{ready: true}},
		{"fails", driver.Fault{Namespace: "sh*", Claim: "data-?", FailCut: true}, minute, outcome{code: codes.Internal}, outcome{code: codes.Internal}},
		{"fails once", driver.Fault{FailCut: true, Times: 1}, minute, outcome{code: codes.Internal}, outcome{ready: true}},
		{"hangs", driver.Fault{HangCut: true}, 300 * time.Millisecond, outcome{code: codes.DeadlineExceeded}, outcome{code: codes.DeadlineExceeded}},
		{"is cut and its answer lost, once", driver.Fault{LoseCut: true, Times: 1}, minute, outcome{code: codes.Unavailable}, outcome{ready: true}},
		{"is never ready", driver.Fault{NotReady: true}, minute, outcome{}, outcome{}},
		{"is ready later", driver.Fault{Ready: time.Hour}, minute, outcome{}, outcome{}},
		{"was ready at once", driver.Fault{Ready: time.Nanosecond}, minute, outcome{ready: true}, outcome{ready: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.fault.ID = i + 1
			require.NoError(t, tt.fault.Check())
			require.NoError(t, file.Update(func([]driver.Fault) []driver.Fault { return []driver.Fault{tt.fault} }))
			name := fmt.Sprintf("snapshot-%d", i)
			var at time.Time
			for _, want := range []outcome{tt.first, tt.again} {
				s, err := cut(name, tt.within)
				require.Equal(t, want.code, status.Code(err), "%v", err)
				require.Equal(t, want.ready, s.GetReadyToUse())
				if err == nil && !at.IsZero() {
					require.Equal(t, at, s.GetCreationTime().AsTime(), "one snapshot, one cut")
				}
				if err == nil {
					at = s.GetCreationTime().AsTime()
				}
			}
			require.NoError(t, file.Update(func([]driver.Fault) []driver.Fault { return nil }))
			s, err := cut(name, minute)
			require.NoError(t, err)
			require.True(t, s.GetReadyToUse(), "the fault is cleared")
		})
	}
}

func TestCreationTimeIsThatOfTheCut(t *testing.T) {
	file := driver.FaultFile(filepath.Join(t.TempDir(), "faults.json"))
	c := csi.NewControllerClient(dial(t, start(t, file)))
	volume := makeVolume(t, c, "data-0", 64<<20)
	const slow = 300 * time.Millisecond
	require.NoError(t, file.Update(func([]driver.Fault) []driver.Fault { return []driver.Fault{{ID: 1, SlowCut: slow}} }))
	asked := time.Now()
	s, err := c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "one", SourceVolumeId: volume})
	require.NoError(t, err)
	at := s.GetSnapshot().GetCreationTime().AsTime()
	// The kernel's clock for files moves in ticks.
	require.Greater(t, at.Sub(asked), slow-20*time.Millisecond)
	require.False(t, at.After(time.Now()))
}

// What nobody was told of is in the pool all the same, until it is deleted.
func TestStoredSnapshotsAreListed(t *testing.T) {
	file := driver.FaultFile(filepath.Join(t.TempDir(), "faults.json"))
	dir := start(t, file)
	c := csi.NewControllerClient(dial(t, dir))
	volume := makeVolume(t, c, "data-0", 64<<20)
	require.NoError(t, file.Update(func([]driver.Fault) []driver.Fault { return []driver.Fault{{ID: 1, LoseCut: true}} }))
	_, err := c.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "one", SourceVolumeId: volume})
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	stored, err := driver.ListStored(filepath.Join(dir, "pool"))
	require.NoError(t, err)
	require.Len(t, stored, 1)
	require.Equal(t, "shop", stored[0].Namespace)
	require.Equal(t, "data-0", stored[0].Claim)
	_, err = c.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: stored[0].ID})
	require.NoError(t, err)
	stored, err = driver.ListStored(filepath.Join(dir, "pool"))
	require.NoError(t, err)
	require.Empty(t, stored)
}
