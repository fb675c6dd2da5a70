// Package catalogue describes the functions that a blueprint may call: names,
// arguments, outputs and contract. It is pure data, so that the linter, the
// JSON Schema, the reference and the planner read it without linking a client.
// Start with Function; the contents are in catalogue.json (golden, embedded).
package catalogue

import (
	"slices"
	"strings"
	"time"
)

// Type is the type of an argument as a blueprint author writes it.
type Type string

// The types of arguments. Arguments are decoded weakly, as Kanister does
// (mapstructure WeakDecode): "3" is an integer, "true" a boolean, a scalar a
// list of one.
const (
	String   Type = "string"
	Integer  Type = "integer"
	Number   Type = "number"
	Boolean  Type = "boolean"
	Duration Type = "duration" // Go syntax: "90s", "1h30m"
	List     Type = "list"     // of strings
	Map      Type = "map"      // of strings
	Object   Type = "object"   // structured; see the description
	Any      Type = "any"
)

// Arg is one argument of a function.
type Arg struct {
	Name        string   `json:"name"`
	Type        Type     `json:"type"`
	Required    bool     `json:"required,omitempty"`
	Default     string   `json:"default,omitempty"`
	Description string   `json:"description"`
	Enum        []string `json:"enum,omitempty"`
	// Aliases are other names that public blueprints use for it.
	Aliases []string `json:"aliases,omitempty"`
	// Raw: each `condition` in it is handed over unrendered; it is a template
	// over an object that the function looks at (Kanister's Wait and WaitV2).
	Raw bool `json:"raw,omitempty"`
}

// Output is one key that a function returns.
type Output struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Rule is one permission on a cluster, as in a Kubernetes Role: what a worker
// must be allowed to run a function, and nothing more.
type Rule struct {
	Group     string   `json:"group"` // "" is the core group
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
	// Cluster: the resources are in no namespace.
	Cluster bool `json:"cluster,omitempty"`
}

// Function is what is known of one blueprint function.
type Function struct {
	Name    string   `json:"name"`
	Family  string   `json:"family"` // the activity package that runs it: host, sql, kube, ...
	Summary string   `json:"summary"`
	Args    []Arg    `json:"args"`
	Outputs []Output `json:"outputs,omitempty"`
	// OpenOutputs: it may return keys not listed (what a command prints with
	// `kando output`).
	OpenOutputs bool `json:"openOutputs,omitempty"`
	// Idempotent: it may run again when the outcome of an attempt is unknown.
	Idempotent bool `json:"idempotent,omitempty"`
	// Reattach: an attempt after a worker's death finds what the one before
	// started, and takes its result. It never starts a second one.
	Reattach bool `json:"reattach,omitempty"`
	// ReadOnly: it changes nothing.
	ReadOnly bool `json:"readOnly,omitempty"`
	// Cut: it captures data. A cut inside a freeze is what the proof is about.
	Cut bool `json:"cut,omitempty"`
	// Proof names outputs that identify a freeze. They must be the same in
	// what `do` and in what `undo` reported (design: G3).
	Proof []string `json:"proof,omitempty"`
	// Profile: it needs the run's location profile.
	Profile bool `json:"profile,omitempty"`
	// MayUseProfile: it uses one where the run has one.
	MayUseProfile bool `json:"mayUseProfile,omitempty"`
	// Person: it waits for a person, so it may not stand inside a freeze.
	Person bool `json:"person,omitempty"`
	// Timeout of one attempt where the phase gives none.
	Timeout time.Duration `json:"timeout"`
	// Rules are what it asks of a cluster's API. What it does with an object of
	// a kind that its arguments name is not in them (KubeOps, conditions).
	Rules []Rule `json:"rules,omitempty"`
	// Planned: Kanister's language has it; no worker of this release runs it.
	Planned bool `json:"planned,omitempty"`
}

// Arg returns the argument of that name or alias.
func (f *Function) Arg(name string) (Arg, bool) {
	for _, a := range f.Args {
		if a.Name == name || slices.Contains(a.Aliases, name) {
			return a, true
		}
	}
	return Arg{}, false
}

// Output reports whether the function may return that key.
func (f *Function) Output(key string) bool {
	return f.OpenOutputs || slices.ContainsFunc(f.Outputs, func(o Output) bool { return o.Name == key })
}

// Catalogue is a set of functions, sorted by name.
type Catalogue struct {
	Functions []Function `json:"functions"`
}

// New returns the catalogue of these functions. A later one replaces an
// earlier one of the same name.
func New(lists ...[]Function) Catalogue {
	byName := map[string]Function{}
	for _, l := range lists {
		for _, f := range l {
			byName[f.Name] = f
		}
	}
	var c Catalogue
	for _, f := range byName {
		c.Functions = append(c.Functions, f)
	}
	slices.SortFunc(c.Functions, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// Lookup returns the function of that name.
func (c Catalogue) Lookup(name string) (*Function, bool) {
	i, ok := slices.BinarySearchFunc(c.Functions, name, func(f Function, n string) int { return strings.Compare(f.Name, n) })
	if !ok {
		return nil, false
	}
	return &c.Functions[i], true
}
