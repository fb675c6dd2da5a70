// Package actionset lets Kanister's ActionSets drive Thaw: it watches them,
// runs each action as a RunAction workflow, and writes into the ActionSet what
// Kanister's controller would: state, phases, progress, artifacts, error. What
// must happen is in the workflow; an ActionSet's status is a picture of it.
// Start with Bridge; follow.go is the life of one ActionSet.
package actionset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/blueprints/plan"
)

// Kanister's resources.
var (
	group      = schema.GroupVersion{Group: "cr.kanister.io", Version: "v1alpha1"}
	actionSets = group.WithResource("actionsets")
	blueprint  = group.WithResource("blueprints")
	// ownBlueprint may freeze, which Kanister's own schema has no words for.
	ownBlueprint = schema.GroupVersionResource{Group: "thaw.dev", Version: "v1alpha1", Resource: "blueprints"}
)

// The states of an ActionSet, and of a phase.
const (
	statePending  = "pending"
	stateRunning  = "running"
	stateFailed   = "failed"
	stateComplete = "complete"
)

// over reports whether an ActionSet in that state is never looked at again.
func over(state string) bool { return state == stateFailed || state == stateComplete }

// set is an ActionSet.
type set struct {
	spec   *spec
	status *status
	wrong  error // why the spec is not understood
}

type spec struct {
	Actions []action `json:"actions"`
}

// action is one action of an ActionSet, as a person or kanctl wrote it.
type action struct {
	Name             string               `json:"name"`
	Object           object               `json:"object"`
	Blueprint        string               `json:"blueprint"`
	Artifacts        map[string]artifact  `json:"artifacts"`
	ConfigMaps       map[string]reference `json:"configMaps"`
	Secrets          map[string]reference `json:"secrets"`
	Profile          *reference           `json:"profile"`
	PodOverride      plan.Values          `json:"podOverride"`
	Options          map[string]string    `json:"options"`
	PreferredVersion string               `json:"preferredVersion"`
	PodLabels        map[string]string    `json:"podLabels"`
	PodAnnotations   map[string]string    `json:"podAnnotations"`
}

// object is Kanister's reference to one: every field is written, as its
// controller does.
type object struct {
	APIVersion string `json:"apiVersion"`
	Group      string `json:"group"`
	Resource   string `json:"resource"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace,omitempty"`
}

type reference = plan.Reference

type artifact = plan.Artifact

// status is what users, kanctl and Kasten K10 read.
type status struct {
	State    string         `json:"state"`
	Actions  []actionStatus `json:"actions,omitempty"`
	Error    failure        `json:"error"`
	Progress progress       `json:"progress"`
}

type actionStatus struct {
	Name       string              `json:"name"`
	Object     object              `json:"object"`
	Blueprint  string              `json:"blueprint"`
	Phases     []phase             `json:"phases,omitempty"`
	Artifacts  map[string]artifact `json:"artifacts,omitempty"`
	DeferPhase *phase              `json:"deferPhase,omitempty"`
}

type phase struct {
	Name     string        `json:"name"`
	State    string        `json:"state"`
	Output   plan.Values   `json:"output,omitempty"`
	Progress phaseProgress `json:"progress"`
}

type phaseProgress struct {
	ProgressPercent    string       `json:"progressPercent,omitempty"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

type progress struct {
	RunningPhase       string       `json:"runningPhase,omitempty"`
	PercentCompleted   string       `json:"percentCompleted,omitempty"`
	LastTransitionTime *metav1.Time `json:"lastTransitionTime,omitempty"`
}

type failure struct {
	Message string `json:"message"`
}

// read makes sense of an ActionSet of the cluster. Fields that are not
// Kanister's are let be; a status that is none is none.
func read(o *unstructured.Unstructured) *set {
	s := &set{}
	if err := convert(o.Object["spec"], &s.spec); err != nil {
		s.spec, s.wrong = nil, fmt.Errorf("spec is not understood: %w", err)
	}
	if convert(o.Object["status"], &s.status) != nil {
		s.status = nil
	}
	if s.spec == nil && s.wrong == nil {
		s.wrong = errors.New("spec is missing")
	}
	return s
}

func convert(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

// with returns a copy of the ActionSet with that status.
func with(o *unstructured.Unstructured, st *status) (*unstructured.Unstructured, error) {
	b, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	var v plan.Values // integers stay integers
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	out := o.DeepCopy()
	out.Object["status"] = map[string]any(v)
	return out, nil
}

// equal compares as what is written.
func equal(a, b *status) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// clone is a deep copy.
func (s *status) clone() *status {
	var c status
	if err := convert(s, &c); err != nil {
		panic(err) // it was read from JSON, or is about to be written as such
	}
	return &c
}

// stamp is a time as Kubernetes writes it: whole seconds.
func stamp(t time.Time) *metav1.Time {
	s := metav1.NewTime(t.UTC().Truncate(time.Second))
	return &s
}
