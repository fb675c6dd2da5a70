package actionset

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/blueprints/planner"
)

// id names the run of an action: an ActionSet that is made again under the
// same name is another. Neither part of it has a slash.
func id(namespace, name, uid string, index int) string {
	return fmt.Sprintf("%s%s/%s/%s/%d", idPrefix, namespace, name, uid, index)
}

const idPrefix = "actionset/"

// parseID is the reverse of id.
func parseID(id string) (namespace, name, uid string, ok bool) {
	rest, ok := strings.CutPrefix(id, idPrefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 4 {
		return "", "", "", false
	}
	return parts[0], parts[1], parts[2], true
}

// version is what Kanister takes as a preferred version of its functions. Only
// one version of each exists, there and here.
var version = regexp.MustCompile(`^v?\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// request is the run that an action asks for. The ActionSet's namespace is
// that of every reference that names none. All that is wrong is in one error.
func (a *action) request(namespace, name, queue string) (plan.Request, error) {
	r := plan.Request{
		Blueprint: a.Blueprint, Action: a.Name, Target: a.Object.target(queue), Options: plan.Values{},
		Secrets: in(namespace, a.Secrets, "Secret"), ConfigMaps: in(namespace, a.ConfigMaps, "ConfigMap"),
		Artifacts: a.Artifacts, Unpublished: true, RequestedBy: "actionset " + namespace + "/" + name,
	}
	for k, v := range a.Options {
		r.Options[k] = v
	}
	if a.Profile != nil && a.Profile.Name != "" {
		p := in(namespace, map[string]reference{"": *a.Profile}, "Profile")[""]
		r.Profile = &p
	}
	if len(a.PodOverride)+len(a.PodLabels)+len(a.PodAnnotations) > 0 {
		r.Pod = &plan.Pod{Override: a.PodOverride, Labels: a.PodLabels, Annotations: a.PodAnnotations}
	}
	return r, a.check()
}

func (a *action) check() error {
	var faults []error
	fail := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if a.Name == "" {
		fail("name is missing: say which action of the blueprint to run")
	}
	if a.Blueprint == "" {
		fail("blueprint is missing: name one of the ActionSet's namespace")
	}
	o := a.Object
	switch strings.ToLower(o.Kind) {
	case "statefulset", "deployment", "deploymentconfig", "pvc", "namespace":
	case "unstructured", "":
		if o.Resource == "" || o.APIVersion == "" {
			fail("object: give a kind (statefulset, deployment, deploymentconfig, pvc, namespace), or group, apiVersion and resource")
		}
	default:
		if o.Resource == "" || o.APIVersion == "" {
			fail("object: kind %q is none of statefulset, deployment, deploymentconfig, pvc, namespace; give its group, apiVersion and resource", o.Kind)
		}
	}
	if o.Name == "" && (!strings.EqualFold(o.Kind, "namespace") || o.Namespace == "") {
		fail("object: name is missing")
	}
	if v := a.PreferredVersion; v != "" && !version.MatchString(v) {
		fail("preferredVersion %q is no version; leave it out, or write v0.0.0", v)
	}
	return errors.Join(faults...)
}

func (o object) target(queue string) plan.Target {
	t := plan.Target{
		Kind: o.Kind, Name: o.Name, Namespace: o.Namespace, APIVersion: o.APIVersion, Resource: o.Resource, TaskQueue: queue,
		Group: strings.TrimSuffix(o.Group, "/"), // as kanctl --objects writes it
	}
	if strings.EqualFold(t.Kind, "namespace") && t.Name == "" {
		t.Name = t.Namespace
	}
	if strings.EqualFold(t.Kind, "unstructured") {
		t.Kind = ""
	}
	if t.Kind == "" {
		t.Kind = t.Resource // for the name of the target's freeze, and for people
	}
	return t
}

func in(namespace string, refs map[string]reference, kind string) map[string]reference {
	if len(refs) == 0 {
		return nil
	}
	out := make(map[string]reference, len(refs))
	for k, r := range refs {
		if r.Namespace == "" {
			r.Namespace = namespace
		}
		if r.Kind == "" {
			r.Kind = kind
		}
		out[k] = r
	}
	return out
}

// prepare checks an action against its blueprint as the run itself will, and
// lists its phases. It is pure: what is wrong with it is wrong before anything
// has started, and whether or not Temporal can be reached.
func prepare(r *plan.Request, text []byte, cat catalogue.Catalogue) (phases []phase, deferred *phase, err error) {
	bp, faults := blueprints.Parse("blueprint "+r.Blueprint, text)
	if faults.Err() == nil {
		faults = append(faults, blueprints.Lint(bp, cat)...)
	}
	if err := faults.Err(); err != nil {
		return nil, nil, fmt.Errorf("blueprint %s: %w", r.Blueprint, err)
	}
	r.BlueprintText = string(text)
	p, err := planner.Build(bp, cat, plan.PlanInput{Request: *r, Time: time.Unix(0, 0)}, planner.Extra{Text: text})
	if err != nil {
		return nil, nil, err
	}
	pending := func(name string) { phases = append(phases, phase{Name: name, State: statePending}) }
	for _, list := range [][]plan.Phase{p.Phases, p.Verify} {
		for i := range list {
			pending(list[i].Name)
			if f := list[i].Freeze; f != nil {
				for _, inner := range f.Phases {
					pending(inner.Name)
				}
			}
		}
	}
	if p.Defer != nil {
		deferred = &phase{Name: p.Defer.Name, State: statePending}
	}
	return phases, deferred, nil
}

// begin is the status of an ActionSet that nothing was done for yet.
func begin(s *spec) *status {
	st := &status{State: statePending}
	if s == nil {
		return st
	}
	for i := range s.Actions {
		a := &s.Actions[i]
		st.Actions = append(st.Actions, actionStatus{Name: a.Name, Object: a.Object, Blueprint: a.Blueprint})
	}
	return st
}
