package driver_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"thaw/deploy/cluster/driver"
)

// TestSanity is the CSI project's own suite.
func TestSanity(t *testing.T) {
	dir := start(t, "")
	config := sanity.NewTestConfig()
	config.Address = "unix://" + filepath.Join(dir, "csi.sock")
	config.TargetPath = filepath.Join(dir, "target")
	config.StagingPath = filepath.Join(dir, "staging")
	config.TestVolumeSize = 64 << 20
	sanity.Test(t, config)
}

// start serves a driver on a pool of its own until the test ends.
func start(t *testing.T, faults driver.FaultFile) (dir string) {
	t.Helper()
	dir = pool(t)
	d, err := driver.New(driver.Config{
		Socket: filepath.Join(dir, "csi.sock"), Image: filepath.Join(dir, "pool.img"), Pool: filepath.Join(dir, "pool"),
		Size: 4 << 30, Node: "test", Faults: faults,
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(filepath.Join(dir, "pool"), 0)) })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-done) })
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, "csi.sock"))
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return dir
}

// pool returns a directory for one, where this machine can have it.
func pool(t *testing.T) string {
	t.Helper()
	why := ""
	if os.Geteuid() != 0 {
		why = "mounting a pool needs root"
	} else if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		why = "mkfs.btrfs is not there: install btrfs-progs"
	}
	if why != "" {
		if os.Getenv("THAW_REQUIRE_CLUSTER") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	dir, err := os.MkdirTemp("", "thaw-csi") // short: sockets' paths are limited
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
