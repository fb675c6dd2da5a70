// Package activities holds the activities that the engine calls: they plan,
// render the arguments of one call and run its function, freeze and thaw,
// watch a run, and write restore points. The functions themselves are in the
// families below (host, sql, web, ...); this package knows none of them. Start
// with Engine; freeze.go is the heart.
package activities

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/secret"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
)

// Config is what a worker gives its activities.
type Config struct {
	// StateDir is the worker's own directory: journal, helpers, temporary data.
	StateDir string
	// Location is where restore points go that name no location of their own.
	Location string
	// BlueprintsDir holds blueprints beside those of the library.
	BlueprintsDir string
	Secrets       *secret.Store
	// Key returns the passphrase that restore points in locations are sealed
	// with, and that opens repositories whose blueprint names none.
	Key       func() (string, error)
	Functions []function.Function
	Cluster   *cluster.Cluster // nil: a worker without one
	Namespace string           // of Temporal
	Client    client.Client    // may be nil: then nothing is watched or signalled
	Log       *slog.Logger     // redacts
}

// Engine holds the activities. Make it with New.
type Engine struct {
	cfg       Config
	redact    *secret.Redactor
	functions map[string]*function.Function
	catalogue catalogue.Catalogue
	journal   *journal
	holds     *function.Holds
	log       *slog.Logger

	mu      sync.Mutex
	windows map[string]*window // freezes under way in this process, by token

	attrMu    sync.Mutex
	attrKnown bool

	ownerMu sync.Mutex
	owner   string
}

// New returns the engine's activities, and makes the worker's directories.
func New(cfg Config) (*Engine, error) {
	j, err := openJournal(filepath.Join(cfg.StateDir, "freezes"))
	if err != nil {
		return nil, err
	}
	e := &Engine{
		cfg: cfg, redact: cfg.Secrets.Redact, journal: j, holds: function.NewHolds(), log: cfg.Log,
		functions: map[string]*function.Function{}, windows: map[string]*window{},
	}
	entries := make([]catalogue.Function, 0, len(cfg.Functions))
	for i := range cfg.Functions {
		f := &cfg.Functions[i]
		if _, twice := e.functions[f.Name]; twice {
			return nil, fmt.Errorf("function %s is declared twice", f.Name)
		}
		e.functions[f.Name] = f
		entries = append(entries, f.Function)
	}
	e.catalogue = catalogue.New(catalogue.Kanister(), entries)
	return e, nil
}

// Registry is what a worker registers activities with.
type Registry interface {
	RegisterActivityWithOptions(a any, options activity.RegisterOptions)
}

// Register registers every activity of the engine.
func (e *Engine) Register(r Registry) {
	for name, f := range map[string]any{
		plan.ActivityPlan: e.Plan, plan.ActivityCall: e.Call, plan.ActivityFreeze: e.Freeze, plan.ActivityThaw: e.Thaw,
		plan.ActivityWatch: e.Watch, plan.ActivityArtifacts: e.Artifacts, plan.ActivityRecord: e.Record, plan.ActivityForget: e.Forget,
		plan.ActivityFetch: e.Fetch, plan.ActivityPublish: e.Publish, plan.ActivityUnpublish: e.Unpublish,
		plan.ActivityPlanApplication: e.PlanApplication, plan.ActivityPlanRestore: e.PlanRestore,
		plan.ActivityPlanRetire: e.PlanRetire, plan.ActivityMarkRetiring: e.MarkRetiring, plan.ActivityPlanDeletion: e.PlanDeletion, plan.ActivityMaintain: e.Maintain,
		plan.ActivityVerify: e.Verify,
	} {
		r.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
}

// Holding lists the tokens of the freezes that this process holds now.
func (e *Engine) Holding() []string { return e.holds.Tokens() }

// nothing is the detail of a heartbeat that tells only that the activity lives.
func nothing() any { return nil }

// heartbeats tells Temporal every interval that the activity lives, with what
// detail returns, until the returned stop. One that was cancelled, and cleans
// up, lives: taken for lost, its report would be too.
func heartbeats(ctx context.Context, every time.Duration, detail func() any) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			activity.RecordHeartbeat(ctx, detail())
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}
