package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/metrics"
	sqliteplugin "go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
	"google.golang.org/protobuf/types/known/durationpb"
)

type options struct {
	Data          string
	IP            string
	Port, UIPort  int
	Namespace     string
	Retention     time.Duration
	LogLevel      string
	ReadyFile     string
	DieWithParent bool
}

// clusterName is in the database and in every namespace: it cannot change.
const clusterName = "active"

// server is Temporal and its UI, running.
type server struct {
	options
	address string // of the frontend
	ui      string // URL; empty where it is off
	t       temporal.Server
	w       *uiserver.Server
}

// start starts everything. Its listeners may not answer yet: see ready.
func start(ctx context.Context, o options) (*server, error) {
	s := &server{options: o}
	path := filepath.Join(o.Data, "temporal.db")
	if err := prepareDatabase(path); err != nil {
		return nil, err
	}
	ports, err := o.ports()
	if err != nil {
		return nil, err
	}
	s.address = net.JoinHostPort(o.IP, strconv.Itoa(ports[0]))

	cfg := s.config(path, ports)
	if err := o.makeNamespace(cfg.Persistence.DataStores[sqliteplugin.PluginName].SQL); err != nil {
		return nil, err
	}
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Stdout: false, Level: o.LogLevel, Format: "console"}))
	hosts := map[primitives.ServiceName]static.Hosts{}
	for i, name := range services {
		hosts[name] = static.SingleLocalHost(net.JoinHostPort(o.IP, strconv.Itoa(ports[i])))
	}
	s.t, err = temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		// One process: a ring that gossips would only wait for the hosts of
		// the process that was killed before this one.
		temporal.WithStaticHosts(hosts),
		temporal.WithDynamicConfigClient(tuning()),
		temporal.WithCustomMetricsHandler(metrics.NoopMetricsHandler),
		temporal.WithLogger(logger),
	)
	if err != nil {
		return nil, fmt.Errorf("configure temporal on %s: %w", o.Data, err)
	}
	if err := s.t.Start(); err != nil {
		return nil, fmt.Errorf("start temporal on %s: %w", s.address, err)
	}
	if port := ports[len(ports)-1]; o.UIPort != 0 {
		s.ui = "http://" + net.JoinHostPort(o.IP, strconv.Itoa(port))
		s.w = uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
			TemporalGRPCAddress: s.address,
			Host:                o.IP,
			Port:                port,
			EnableUI:            true,
			DefaultNamespace:    o.Namespace,
			DisableNewsFetch:    true,
			HideLogs:            true,
			CORS:                uiconfig.CORS{CookieInsecure: true}, // plain http, on loopback
		}))
		go func() { _ = s.w.Start() }()
	}
	return s, nil
}

func (s *server) stop() {
	if s.w != nil {
		s.w.Stop()
	}
	_ = s.t.Stop()
}

var services = []primitives.ServiceName{
	primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService,
}

// ports returns those of the services, then the UI's. All are held open until
// all are chosen, so that none is given twice.
func (o options) ports() ([]int, error) {
	want := []int{o.Port, 0, 0, 0, max(o.UIPort, 0)}
	got := make([]int, len(want))
	for i, port := range want {
		l, err := net.Listen("tcp", net.JoinHostPort(o.IP, strconv.Itoa(port)))
		if err != nil {
			return nil, fmt.Errorf("listen on %s port %d: %w; stop what uses it, or give another --port, --ui-port", o.IP, port, err)
		}
		defer l.Close()
		got[i] = l.Addr().(*net.TCPAddr).Port
	}
	return got, nil
}

func (s *server) config(path string, ports []int) *config.Config {
	cfg := &config.Config{
		Persistence: config.Persistence{
			DefaultStore:     sqliteplugin.PluginName,
			VisibilityStore:  sqliteplugin.PluginName,
			NumHistoryShards: 1, // fixed for the life of a database
			DataStores: map[string]config.DataStore{sqliteplugin.PluginName: {SQL: &config.SQL{
				PluginName:   sqliteplugin.PluginName,
				DatabaseName: path,
				ConnectAttributes: map[string]string{
					"mode":         "rwc",
					"journal_mode": "wal",
					// WAL with NORMAL may lose the last commits with the
					// machine's power: an intent that was recorded must not
					// be forgotten after its effect.
					"synchronous":  "full",
					"busy_timeout": "10000",
				},
			}}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: s.address},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Services:            map[string]config.Service{},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: "disabled"},
			Visibility: config.VisibilityArchival{State: "disabled"},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: "disabled"},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: s.address},
	}
	cfg.Global.Membership = config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: s.IP}
	for i, name := range services {
		cfg.Services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: ports[i], BindOnIP: s.IP}}
	}
	return cfg
}

// tuning is what differs from the server's defaults, which are for clusters.
func tuning() dynamicconfig.Client {
	return dynamicconfig.StaticClient{
		// The default of 20 polls a second costs 50 ms at every hop.
		dynamicconfig.TransferProcessorMaxPollRPS.Key():   2000,
		dynamicconfig.TimerProcessorMaxPollRPS.Key():      2000,
		dynamicconfig.VisibilityProcessorMaxPollRPS.Key(): 2000,
		dynamicconfig.OutboundProcessorMaxPollRPS.Key():   2000,
		// The allowance for clocks of several hosts that differ; here is one
		// clock. With the default of 1 s every timer fires up to 1 s late.
		dynamicconfig.TimerProcessorMaxTimeShift.Key(): 10 * time.Millisecond,
		// One partition a queue: a task never waits at a partition where
		// nobody polls.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():    1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key():   1,
		dynamicconfig.FrontendEnableUpdateWorkflowExecution.Key(): true,
		dynamicconfig.EnableActivityEagerExecution.Key():          true,
		// The UI and CLI of one team: limits that protect a shared cluster
		// are in the way.
		dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 200,
	}
}

// makeNamespace makes it in the database, before anything serves: a namespace
// made through the API is known to the services only after their next refresh.
func (o options) makeNamespace(db *config.SQL) error {
	ns, err := sqlite.NewNamespaceConfig(clusterName, o.Namespace, false, searchAttributes)
	if err != nil {
		return fmt.Errorf("make namespace %s: %w", o.Namespace, err)
	}
	ns.Detail.Config.Retention = durationpb.New(o.Retention)
	if err := sqlite.CreateNamespaces(db, ns); err != nil {
		return fmt.Errorf("make namespace %s: %w", o.Namespace, err)
	}
	return nil
}
