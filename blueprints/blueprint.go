// Package blueprints is the language in which people say how a kind of
// database is frozen, captured, thawed, exported and restored: Kanister's, and
// Thaw's additions to it. Parse reads a file, Lint checks it against the
// catalogue of functions; each reports all that is wrong, with its place.
// It is pure: no Temporal, Kubernetes or cloud package. Start with Blueprint.
package blueprints

import (
	"time"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/plan"
)

// The versions of the language.
const (
	KanisterVersion = "cr.kanister.io/v1alpha1"
	ThawVersion     = "thaw.dev/v1alpha1"
	Kind            = "Blueprint"
)

// Blueprint is one blueprint. Parse makes it; the parts that it could not
// read are left out, and are in its faults.
type Blueprint struct {
	File        string
	Text        []byte // of this document
	Digest      string // "sha256:…" of Text
	APIVersion  string
	Kind        string
	Metadata    Metadata
	Description string
	Parameters  []*Parameter // in the order of the file
	Actions     []*Action    // in the order of the file

	source *source
}

// Metadata is the metadata that means something here.
type Metadata struct {
	Name        string
	Namespace   string
	Labels      map[string]string
	Annotations map[string]string
}

// Thaw reports whether the blueprint may use Thaw's additions.
func (b *Blueprint) Thaw() bool { return b.APIVersion == ThawVersion }

// Action returns the action of that name.
func (b *Blueprint) Action(name string) (*Action, bool) {
	for _, a := range b.Actions {
		if a.Name == name {
			return a, true
		}
	}
	return nil, false
}

// ActionNames lists the actions, in the order of the file.
func (b *Blueprint) ActionNames() []string {
	names := make([]string, len(b.Actions))
	for i, a := range b.Actions {
		names[i] = a.Name
	}
	return names
}

// Position returns the line and column of an element's value by its path
// ("actions.backup.phases[1].args.pvc"), or of the nearest element around it.
func (b *Blueprint) Position(path string) (line, column int) { return b.source.position(path) }

// Parameter is an option that the blueprint declares.
type Parameter struct {
	Name        string
	Path        string
	Description string
	// Schema is its JSON Schema, `required` taken out.
	Schema     map[string]any
	Default    any
	HasDefault bool
	// Required: the request must give it. One that is neither required nor
	// has a default is the zero value of its type where it is not given.
	Required bool
}

// Action is a named list of phases.
type Action struct {
	Name               string
	Path               string
	Description        string
	Kind               string // of target, as Kanister has it
	ConfigMapNames     []string
	SecretNames        []string
	InputArtifactNames []string
	OutputArtifacts    map[string]plan.Artifact
	Phases             []*Phase
	DeferPhase         *Phase
	Verify             []*Phase
	Approval           *plan.Approval
}

// Phase is one step: a call of a function, or a freeze. Do, undo, compensate
// and deferPhase are phases too, with fewer fields.
type Phase struct {
	Name    string
	Path    string
	Func    string
	Args    map[string]any
	Objects map[string]plan.Reference

	Timeout    time.Duration // 0: the function's
	Retry      *Retry
	When       string
	Needs      []string // nil: the phase before
	Idempotent *bool    // nil: the function's
	Compensate *Phase
	Freeze     *Freeze
}

// Retry says when a failed attempt is followed by another. Zero values are
// the engine's defaults.
type Retry struct {
	MaxAttempts  int
	Backoff      time.Duration
	MaxBackoff   time.Duration
	NonRetryable []string
	ExitCodes    bool
}

// Freeze is a span in which the target is quiesced.
type Freeze struct {
	Path      string
	Do        *Phase
	Undo      *Phase
	MaxFreeze time.Duration
	Proof     []string
	Phases    []*Phase
}

// Each calls f for every phase of an action, nested ones, verify and
// deferPhase included, parents first.
func (a *Action) Each(f func(*Phase)) {
	for _, p := range a.Phases {
		p.each(f)
	}
	for _, p := range a.Verify {
		p.each(f)
	}
	if a.DeferPhase != nil {
		a.DeferPhase.each(f)
	}
}

func (p *Phase) each(f func(*Phase)) {
	f(p)
	if p.Compensate != nil {
		p.Compensate.each(f)
	}
	if p.Freeze != nil {
		if p.Freeze.Do != nil {
			p.Freeze.Do.each(f)
		}
		for _, in := range p.Freeze.Phases {
			in.each(f)
		}
		if p.Freeze.Undo != nil {
			p.Freeze.Undo.each(f)
		}
	}
}

// source remembers where the elements of a document stand.
type source struct {
	lines  []string              // of the file
	values map[string]*yaml.Node // by path
	keys   map[string]*yaml.Node // of the mapping entry at that path
}
