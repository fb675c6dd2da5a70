package wiring

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"k8s.io/klog/v2"

	"thaw/activities"
	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/cluster/podrun"
	"thaw/activities/data"
	"thaw/activities/function"
	"thaw/activities/host"
	"thaw/activities/kube"
	"thaw/activities/manifest"
	"thaw/activities/person"
	"thaw/activities/secret"
	"thaw/activities/sql"
	"thaw/activities/volume"
	"thaw/activities/wait"
	"thaw/activities/web"
	"thaw/blueprints/catalogue"
	"thaw/worker/actionset"
	"thaw/workflows"
)

// Functions are the blueprint functions of a worker, family by family, on a
// cluster that may be nil.
func Functions(cfg *Config, c *cluster.Cluster, redact *secret.Redactor) []function.Function {
	var all []function.Function
	on := &movers.Movers{Cluster: c, Config: cfg.Data, Key: cfg.passphrase(redact)}
	for _, family := range [][]function.Function{
		host.Functions(cfg.Exec), sql.Functions(), web.Functions(), person.Functions(),
		wait.Functions(c), kube.Functions(c), volume.Functions(c, on), manifest.Functions(c, cfg.secretsKey()), data.Functions(on),
	} {
		all = append(all, family...)
	}
	return all
}

// known is the catalogue of what a worker runs, and of what Kanister has.
func known(functions []function.Function) catalogue.Catalogue {
	entries := make([]catalogue.Function, 0, len(functions))
	for i := range functions {
		entries = append(entries, functions[i].Function)
	}
	return catalogue.New(catalogue.Kanister(), entries)
}

// Options are the worker options that the freeze depends on.
func Options() worker.Options {
	return worker.Options{
		// An activity learns with its heartbeats that its freeze was ended;
		// the default throttle would tell it up to 30 s later.
		MaxHeartbeatThrottleInterval:     200 * time.Millisecond,
		DefaultHeartbeatThrottleInterval: 200 * time.Millisecond,
		// Workflow tasks of a worker that died wait this long for it.
		StickyScheduleToStartTimeout: time.Second,
		// A worker that is told to stop lets its freezes end first, and thaws
		// those that do not; both within the 30 s that Kubernetes gives.
		WorkerStopTimeout: 18 * time.Second,
	}
}

// Run runs a worker until the context ends. First of all it thaws what a dead
// worker of the same state directory left frozen; then it connects to
// Temporal, for as long as that takes. wrap, where not nil, changes the
// functions that are registered (tests put faults there).
func Run(ctx context.Context, cfg *Config, wrap func([]function.Function) []function.Function) error {
	redact := secret.NewRedactor()
	logger, err := newLogger(cfg.Log, redact, os.Stderr)
	if err != nil {
		return err
	}
	co, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return fmt.Errorf("configuration of Temporal: %w", err)
	}
	co.Logger = log.NewStructuredLogger(logger)
	c, err := client.NewLazyClient(co)
	if err != nil {
		return fmt.Errorf("temporal client: %w", err)
	}
	defer c.Close()
	on, err := cluster.Open(cfg.Kubernetes)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	secrets := &secret.Store{Secrets: cfg.SecretsDir, ConfigMaps: cfg.ConfigMapsDir, Redact: redact}
	if cfg.ActionSets.Enabled {
		if err := on.Need(); err != nil {
			return fmt.Errorf("configuration: actionSets: %w", err)
		}
	}
	if on != nil {
		secrets.Cluster = on
		klog.SetSlogLogger(logger)
	}
	functions := Functions(cfg, on, redact)
	if wrap != nil {
		functions = wrap(functions)
	}
	engine, err := activities.New(activities.Config{
		StateDir: cfg.StateDir, Location: cfg.Location, BlueprintsDir: cfg.BlueprintsDir,
		Secrets: secrets, Key: cfg.passphrase(redact), Functions: functions, Cluster: on, Client: c, Log: logger,
		Namespace: orDefault(co.Namespace, client.DefaultNamespace),
	})
	if err != nil {
		return err
	}
	go sweep(ctx, engine, logger)
	if on != nil {
		go podrun.Sweep(ctx, on, logger, engine.Owner, engine.Pending)
		go volume.Sweep(ctx, on, logger, engine.Owner, engine.Orphaned)
	}

	var w worker.Worker
	for {
		// A worker whose start failed cannot be started again.
		w = worker.New(c, cfg.TaskQueue, Options())
		workflows.Register(w)
		engine.Register(w)
		err := w.Start()
		if err == nil {
			break
		}
		logger.Warn("Temporal not reached; trying again", "address", orDefault(co.HostPort, client.DefaultHostPort), "namespace", orDefault(co.Namespace, client.DefaultNamespace), "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
	logger.Info("worker takes work", "taskQueue", cfg.TaskQueue, "functions", len(functions), "stateDir", cfg.StateDir)
	if cfg.ReadyFile != "" {
		if err := os.WriteFile(cfg.ReadyFile, []byte(cfg.TaskQueue+"\n"), 0o600); err != nil {
			logger.Warn("ready file not written", "error", err)
		}
	}
	if cfg.ActionSets.Enabled {
		bridge := &actionset.Bridge{Config: cfg.ActionSets, Cluster: on, Client: c, TaskQueue: cfg.TaskQueue, Catalogue: known(functions), Log: logger}
		go bridge.Run(ctx)
	}
	<-ctx.Done()
	logger.Info("worker stops; freezes under way end first", "held", len(engine.Holding()))
	w.Stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastThaws)
	defer cancel()
	if left := engine.Stop(last); left > 0 {
		logger.Error("freezes are not confirmed thawed; another worker, or this one's next start, thaws them", "left", left)
	}
	return nil
}

// lastThaws is how long a worker that stops tries to thaw what it holds.
const lastThaws = 10 * time.Second

// sweep thaws what is left from before, until all of it is thawed.
func sweep(ctx context.Context, e *activities.Engine, logger *slog.Logger) {
	for wait := time.Second; ; wait = min(wait*2, time.Minute) {
		err := e.Sweep(ctx)
		if err == nil {
			return
		}
		logger.Error("freezes left by a dead worker are not all thawed; trying again", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func newLogger(cfg Log, redact *secret.Redactor, to io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		return nil, fmt.Errorf("configuration: log.level %q: want debug, info, warn or error", cfg.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch cfg.Format {
	case "text":
		return slog.New(redact.Handler(slog.NewTextHandler(to, o))), nil
	case "json":
		return slog.New(redact.Handler(slog.NewJSONHandler(to, o))), nil
	}
	return nil, fmt.Errorf("configuration: log.format %q: want text or json", cfg.Format)
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
