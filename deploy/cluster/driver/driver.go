// Package driver is the CSI driver of the test cluster: volumes are btrfs
// subvolumes on a loop file, snapshots are cut atomically, and tests can tell it
// what to do wrong while it runs (see Fault). It is for one node, and for tests.
// Start reading at Driver.Serve, then CreateSnapshot.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Name is the driver's, in storage and snapshot classes.
const Name = "btrfs.csi.thaw.dev"

// Config of a driver.
type Config struct {
	Socket   string    // that it serves CSI on
	Register string    // directory where the kubelet looks for plugins; empty: none
	Image    string    // file that holds the pool, made if it is not there
	Pool     string    // directory where the pool is mounted
	Size     int64     // of the image, which is sparse
	Node     string    // name of the node
	Faults   FaultFile // empty: none
	Log      *slog.Logger
}

// Driver implements CSI's identity, controller, group controller and node.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	csi.UnimplementedNodeServer

	config Config
	node   string
	pool   *pool
	faults *faults
	log    *slog.Logger
}

// New opens the pool, and makes it if it is not there.
func New(c Config) (*Driver, error) {
	p, err := openPool(c.Image, c.Pool, c.Size)
	if err != nil {
		return nil, err
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{config: c, node: c.Node, pool: p, faults: &faults{file: c.Faults, used: map[int]int{}}, log: c.Log}, nil
}

// Serve answers the kubelet and the sidecars until the context ends.
func (d *Driver) Serve(ctx context.Context) error {
	main := grpc.NewServer(grpc.UnaryInterceptor(d.logCall))
	csi.RegisterIdentityServer(main, d)
	csi.RegisterControllerServer(main, d)
	csi.RegisterGroupControllerServer(main, d)
	csi.RegisterNodeServer(main, d)
	failed := make(chan error, 2)
	if err := serve(main, d.config.Socket, failed); err != nil {
		return err
	}
	defer main.Stop()
	if d.config.Register != "" {
		reg := grpc.NewServer()
		registration.RegisterRegistrationServer(reg, registrar{d: d})
		if err := serve(reg, filepath.Join(d.config.Register, Name+"-reg.sock"), failed); err != nil {
			return err
		}
		defer reg.Stop()
	}
	d.log.Info("serving", "socket", d.config.Socket, "pool", d.config.Pool)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

func serve(s *grpc.Server, socket string, failed chan<- error) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return fmt.Errorf("serve CSI: %w", err)
	}
	// That of a driver that was killed.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("serve CSI: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("serve CSI on %s: %w", socket, err)
	}
	go func() { failed <- s.Serve(l) }()
	return nil
}

func (d *Driver) logCall(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	start := time.Now()
	answer, err := next(ctx, req)
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelWarn
	} else if _, probe := req.(*csi.ProbeRequest); probe {
		level = slog.LevelDebug
	}
	d.log.Log(ctx, level, filepath.Base(info.FullMethod), "took", time.Since(start), "code", status.Code(err).String(), "request", req, "answer", answer, "err", err)
	return answer, err
}

// GetPluginInfo implements CSI.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: "1"}, nil
}

// GetPluginCapabilities implements CSI.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	r := &csi.GetPluginCapabilitiesResponse{}
	for _, s := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE,
	} {
		r.Capabilities = append(r.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: s}}})
	}
	return r, nil
}

// Probe implements CSI.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// registrar tells the kubelet of the driver: what node-driver-registrar does
// elsewhere.
type registrar struct {
	registration.UnimplementedRegistrationServer
	d *Driver
}

func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: Name, Endpoint: r.d.config.Socket, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.d.log.Info("registered with the kubelet")
	} else {
		r.d.log.Warn("not registered with the kubelet", "err", s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}
