// Package plan holds plain data that travels between a run's parts through
// Temporal's history: what a person asks (Request), what will be done (Plan),
// one call of a function (Call), a freeze and its proof, a restore point. It
// knows no client and no clock. Nothing in it is ever a secret: arguments are
// templates here, and are rendered inside activities only. Start with Plan.
package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
)

// DefaultTaskQueue is where a target is served whose queue nobody named.
const DefaultTaskQueue = "thaw"

// Target is what an action works on: a Kubernetes object, or a database on a
// host. Name is its address where it has one ("db1:5432", "/data/shop.db"),
// since the name is what two backups of one target exclude each other by.
type Target struct {
	Kind       string `json:"kind,omitempty"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	Group      string `json:"group,omitempty"`
	Resource   string `json:"resource,omitempty"`
	// TaskQueue of the workers that hold the target's credentials.
	// Default: the queue that the run was started on.
	TaskQueue string `json:"taskQueue,omitempty"`
}

// Key names the target in workflow ids and in the mutex of its freeze.
func (t Target) Key() string {
	parts := []string{strings.ToLower(t.Kind)}
	if t.Namespace != "" && !strings.EqualFold(t.Kind, "namespace") {
		parts = append(parts, t.Namespace)
	}
	key := strings.Join(append(parts, t.Name), ":")
	if t.TaskQueue != "" && t.TaskQueue != DefaultTaskQueue {
		key += "@" + t.TaskQueue
	}
	return key
}

// Reference names a Secret, a ConfigMap or a Profile; never its contents.
// Outside Kubernetes a name is a folder in the worker's secrets directory,
// laid out as Kubernetes mounts a Secret: one file a key.
type Reference struct {
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
	Group      string `json:"group,omitempty"`
	Resource   string `json:"resource,omitempty"`
}

// Workload is what templates see of a StatefulSet, a Deployment or a
// DeploymentConfig: as it was at the start of the run, whatever the run does to
// it (Kanister's rule; blueprints scale back up by it).
type Workload struct {
	Pods       []string   `json:"pods"`
	Containers [][]string `json:"containers"` // of each pod
	// Claims of each pod, and where it mounts them: pod -> claim -> path.
	Claims map[string]map[string]string `json:"claims,omitempty"`
}

// AllClaims are those of all pods, with a path where one mounts it.
func (w *Workload) AllClaims() map[string]string {
	all := map[string]string{}
	if w != nil {
		for _, of := range w.Claims {
			maps.Copy(all, of)
		}
	}
	return all
}

// Pod is what a run's input gives to the pods that its calls make: parts of
// their spec, labels and annotations (Kanister's ActionSet has the same).
type Pod struct {
	Override    Values            `json:"override,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Artifact is what an action leaves for a later one (Kanister's Artifact).
type Artifact struct {
	KeyValue      map[string]string `json:"keyValue,omitempty"`
	KopiaSnapshot string            `json:"kopiaSnapshot,omitempty"`
}

// Request is the input of RunAction: what a person types in the Temporal UI,
// or gives to `temporal workflow start --input`.
type Request struct {
	// Blueprint and Action may be left out where the workflow type is
	// "<blueprint>.<action>".
	Blueprint string `json:"blueprint,omitempty"`
	Action    string `json:"action,omitempty"`
	// BlueprintText is a blueprint in full; it wins over the worker's library.
	BlueprintText string `json:"blueprintText,omitempty"`

	Target     Target               `json:"target"`
	Options    Values               `json:"options,omitempty"`
	Secrets    map[string]Reference `json:"secrets,omitempty"`
	ConfigMaps map[string]Reference `json:"configMaps,omitempty"`
	Profile    *Reference           `json:"profile,omitempty"`
	Artifacts  map[string]Artifact  `json:"artifacts,omitempty"`
	// Pod goes into the pods that the action's calls make.
	Pod *Pod `json:"pod,omitempty"`
	// From is the restore point that a restore, verify or delete works on.
	// Its artifacts are ArtifactsIn.
	From string `json:"from,omitempty"`
	// Location is the directory that restore points are kept in.
	// Default: the worker's.
	Location string `json:"location,omitempty"`
	// Unpublished keeps the restore point out of the profile's location: whoever
	// asks keeps account of the backup, and deletes it, by themselves.
	Unpublished bool `json:"unpublished,omitempty"`

	// Plan asks for the plan only: nothing is locked, written or started.
	Plan bool `json:"plan,omitempty"`
	// Join makes the action's freeze meet those of other runs. It is set by
	// the run that starts them, not by a person.
	Join *Join `json:"join,omitempty"`
	// RequestedBy is the person who asks; four-eyes approvals exclude them.
	RequestedBy string `json:"requestedBy,omitempty"`
	// Approval asks for a person's yes to the plan before anything is done.
	Approval *Approval `json:"approval,omitempty"`
	// NoApproval drops the approval that a blueprint's action asks for, where
	// the blueprint lets it ("approval.optional").
	NoApproval bool `json:"noApproval,omitempty"`
	// OnFailure: "fail" (default) compensates and ends; "pause" waits for a
	// person to retry or skip the failed phase.
	OnFailure string `json:"onFailure,omitempty"`
}

// Approval says whose yes is asked, and for how long it can be given.
type Approval struct {
	Message   string   `json:"message,omitempty"`
	Approvers []string `json:"approvers,omitempty"` // empty: anybody
	FourEyes  bool     `json:"fourEyes,omitempty"`  // not the requester
	Count     int      `json:"count,omitempty"`     // default 1
	Timeout   Duration `json:"timeout,omitempty"`   // default 72h; then the run fails
	Optional  bool     `json:"optional,omitempty"`
}

// Plan is one action of one blueprint, resolved and checked: what the engine
// walks. Digest names all of it, and is what an approval approves.
type Plan struct {
	Digest          string `json:"digest"`
	Blueprint       string `json:"blueprint"`
	BlueprintDigest string `json:"blueprintDigest"`
	// BlueprintText fixes in history what the run uses.
	BlueprintText string    `json:"blueprintText"`
	Action        string    `json:"action"`
	Target        Target    `json:"target"`
	Scope         Scope     `json:"scope"`
	Phases        []Phase   `json:"phases"`
	Verify        []Phase   `json:"verify,omitempty"`
	Defer         *Phase    `json:"defer,omitempty"`
	Approval      *Approval `json:"approval,omitempty"`
	// Artifacts are the templates of the output artifacts.
	Artifacts map[string]Artifact `json:"artifacts,omitempty"`
	Warnings  []string            `json:"warnings,omitempty"`
	// Application that is backed up, in a plan of BackupApplication.
	Application *Application `json:"application,omitempty"`
}

// Scope is what templates may see, beside the outputs of phases: references
// and plain values, resolved once at the start as Kanister does.
type Scope struct {
	Target       Target               `json:"target"`
	Options      Values               `json:"options,omitempty"`
	Secrets      map[string]Reference `json:"secrets,omitempty"`
	ConfigMaps   map[string]Reference `json:"configMaps,omitempty"`
	Profile      *Reference           `json:"profile,omitempty"`
	Artifacts    map[string]Artifact  `json:"artifacts,omitempty"`
	Pod          *Pod                 `json:"pod,omitempty"`
	RestorePoint RestorePointRef      `json:"restorePoint"`
	// Workload and Object of a target in a cluster, as they were at the start.
	// Object is set only where a template names it, and never for a Secret.
	Workload *Workload `json:"workload,omitempty"`
	Object   Values    `json:"object,omitempty"`
	// Time is the start of the action, RFC 3339 with nanoseconds, UTC.
	Time string `json:"time"`
}

// RestorePointRef is the restore point that a run makes or works on.
type RestorePointRef struct {
	ID string `json:"id,omitempty"`
	// Directory holds its data, on the worker's host.
	Directory string `json:"directory,omitempty"`
	// Consistent as it was recorded; false for one being made.
	Consistent bool `json:"consistent,omitempty"`
	// Profile of the location that keeps it besides, by reference; nil: none.
	Profile *Reference `json:"profile,omitempty"`
}

// FetchInput says which restore point to fetch to its target's worker.
type FetchInput struct {
	From     string    `json:"from"`
	Location string    `json:"location,omitempty"` // directory; the worker's where it is empty
	Profile  Reference `json:"profile"`
	// Records fetches those alone, for an action that deletes: it needs no file
	// that it would delete.
	Records bool `json:"records,omitempty"`
}

// Phase is one step: a call of a function, or a freeze.
type Phase struct {
	Name       string               `json:"name"`
	Func       string               `json:"func,omitempty"`
	Args       Values               `json:"args,omitempty"`
	Objects    map[string]Reference `json:"objects,omitempty"`
	Shown      Values               `json:"shown,omitempty"` // arguments as rendered for people, secrets masked
	Timeout    Duration             `json:"timeout"`
	Retry      Retry                `json:"retry"`
	When       string               `json:"when,omitempty"`  // CEL
	Needs      []string             `json:"needs,omitempty"` // names; set for every phase: a chain where the author gave none
	Idempotent bool                 `json:"idempotent,omitempty"`
	Reattach   bool                 `json:"reattach,omitempty"` // see catalogue.Function
	Person     bool                 `json:"person,omitempty"`   // waits for a person: the engine asks
	// Never: its `when` is false whatever the other phases come to.
	Never bool `json:"never,omitempty"`
	// Skip is set by a person's skip of a phase inside a freeze: the reason.
	Skip       string  `json:"skip,omitempty"`
	Compensate *Phase  `json:"compensate,omitempty"`
	Freeze     *Freeze `json:"freeze,omitempty"`
	// Together runs other actions, and its phases while all of them are frozen.
	Together *Together `json:"together,omitempty"`
}

// Retry says when a failed attempt is followed by another.
type Retry struct {
	MaxAttempts  int      `json:"maxAttempts"`
	Backoff      Duration `json:"backoff"`
	MaxBackoff   Duration `json:"maxBackoff,omitempty"`
	NonRetryable []string `json:"nonRetryable,omitempty"` // kinds or codes of errors
	// ExitCodes: a command's non-zero exit is retried (it is not by default).
	ExitCodes bool `json:"exitCodes,omitempty"`
}

// Freeze is a span in which the target is quiesced.
type Freeze struct {
	Do        Phase    `json:"do"`
	Undo      Phase    `json:"undo"`
	MaxFreeze Duration `json:"maxFreeze"`
	Phases    []Phase  `json:"phases"`
	// Proof names the outputs that must be equal in do and undo. Empty: the
	// freeze cannot be proven, and its restore point is not `consistent`.
	Proof []string `json:"proof,omitempty"`
}

// Seal computes the digest over everything else in the plan.
func (p *Plan) Seal() error {
	p.Digest = ""
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("digest of the plan of %s.%s: %w", p.Blueprint, p.Action, err)
	}
	sum := sha256.Sum256(b)
	p.Digest = "sha256:" + hex.EncodeToString(sum[:])
	return nil
}

// Walk calls f for every phase of the plan, nested ones and compensations
// included, parents first.
func (p *Plan) Walk(f func(*Phase)) {
	var visit func(*Phase)
	visit = func(ph *Phase) {
		f(ph)
		if ph.Compensate != nil {
			visit(ph.Compensate)
		}
		if ph.Freeze != nil {
			visit(&ph.Freeze.Do)
			for i := range ph.Freeze.Phases {
				visit(&ph.Freeze.Phases[i])
			}
			visit(&ph.Freeze.Undo)
		}
		if ph.Together != nil {
			for i := range ph.Together.Phases {
				visit(&ph.Together.Phases[i])
			}
		}
	}
	for i := range p.Phases {
		visit(&p.Phases[i])
	}
	for i := range p.Verify {
		visit(&p.Verify[i])
	}
	if p.Defer != nil {
		visit(p.Defer)
	}
}
