package actionset

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/cluster/binding"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// key names one ActionSet, and no later one of the same name.
type key struct {
	namespace, name string
	uid             types.UID
}

// follow is the life of one ActionSet: checked, started, pictured to its end.
// What fails on the way is tried again until it does not, or until the
// ActionSet is gone.
func (b *Bridge) follow(ctx context.Context, k key) {
	log := b.Log.With("actionset", k.namespace+"/"+k.name)
	wait, told := time.Duration(0), ""
	for {
		err := b.live(ctx, k)
		switch {
		case err == nil, errors.Is(err, errGone):
			return
		case ctx.Err() != nil:
			return
		}
		log.Warn("ActionSet: trying again", "error", err)
		if told != err.Error() {
			told = err.Error()
			if o, _, err := b.get(ctx, k); err == nil {
				b.events.event(o, change{reason: "Waiting", message: "Trying again: " + told, warning: true, action: -1})
			}
		}
		if !pause(ctx, &wait, 15*time.Second) {
			return
		}
	}
}

func (b *Bridge) live(ctx context.Context, k key) error {
	o, s, err := b.get(ctx, k)
	if err != nil {
		return err
	}
	if s.status != nil && over(s.status.State) {
		return nil
	}
	if s.wrong != nil {
		return b.refuse(ctx, k, begin(s.spec), s.wrong)
	}
	runs, err := b.adopt(ctx, k, s)
	if err != nil {
		return err
	}
	if s.status == nil || s.status.State != stateRunning || len(s.status.Actions) != len(s.spec.Actions) {
		if done, err := b.start(ctx, k, o, s, runs); done || err != nil {
			return err
		}
	}
	return b.picture(ctx, k, s.spec, runs)
}

// get reads the ActionSet anew.
func (b *Bridge) get(ctx context.Context, k key) (*unstructured.Unstructured, *set, error) {
	var o *unstructured.Unstructured
	err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
		o, err = b.Cluster.Dynamic.Resource(actionSets).Namespace(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil, errGone
	case err != nil:
		return nil, nil, fmt.Errorf("read: %w", err)
	case o.GetUID() != k.uid, o.GetDeletionTimestamp() != nil:
		return nil, nil, errGone
	}
	return o, read(o), nil
}

// adopt finds the runs that were started already: by a worker that is no
// more, or by another one. A run that is not there has no id.
func (b *Bridge) adopt(ctx context.Context, k key, s *set) ([]run, error) {
	runs := make([]run, len(s.spec.Actions))
	if s.status == nil {
		return runs, nil // it is written before anything is started
	}
	for i := range runs {
		id := id(k.namespace, k.name, string(k.uid), i)
		found, err := b.exists(ctx, id)
		if err != nil {
			return nil, err
		}
		if found {
			runs[i].id = id
		}
	}
	return runs, nil
}

// start checks every action, then starts every one; where one is wrong, none
// is started. Done: the ActionSet is over already.
func (b *Bridge) start(ctx context.Context, k key, o *unstructured.Unstructured, s *set, runs []run) (done bool, err error) {
	st := begin(s.spec)
	requests := make([]plan.Request, len(runs))
	var faults []error
	for i := range s.spec.Actions {
		a := &s.spec.Actions[i]
		r, err := a.request(k.namespace, k.name, b.TaskQueue)
		if err == nil {
			err = b.prepare(ctx, k, &r, &st.Actions[i])
		}
		if err != nil && fault.Of(err) == fault.Transient {
			return false, err // nothing is known of it yet
		}
		if err != nil && runs[i].id == "" {
			faults = append(faults, fmt.Errorf("action %s: %w", name(a, i), err))
		}
		requests[i] = r
	}
	if len(faults) > 0 {
		return true, b.refuse(ctx, k, st, errors.Join(faults...))
	}
	// The phases are seen before the first of them runs.
	if err := b.write(ctx, k, func(was *status) *status {
		if was != nil && len(was.Actions) == len(st.Actions) && was.State == statePending {
			return was
		}
		return st
	}); err != nil {
		return false, err
	}
	for i := range runs {
		if runs[i].id != "" {
			continue
		}
		id := id(k.namespace, k.name, string(k.uid), i)
		if err := b.execute(ctx, id, k, requests[i]); err != nil {
			if fault.Of(err) == fault.User {
				return true, b.refuse(ctx, k, st, fmt.Errorf("action %s: %w", name(&s.spec.Actions[i], i), err))
			}
			return false, err
		}
		runs[i].id = id
		b.events.event(o, change{reason: "Started Action", message: fmt.Sprintf("Action %s started; its workflow is %s", s.spec.Actions[i].Name, id), action: i})
	}
	return false, nil
}

func name(a *action, i int) string {
	if a.Name == "" {
		return fmt.Sprint(i)
	}
	return a.Name
}

// prepare reads the blueprint and checks the action against it.
func (b *Bridge) prepare(ctx context.Context, k key, r *plan.Request, st *actionStatus) error {
	text, err := b.blueprint(ctx, k.namespace, r.Blueprint)
	if err != nil {
		return err
	}
	phases, deferred, err := prepare(r, text, b.Catalogue)
	if err != nil {
		return fault.New(fault.User, "%w", err)
	}
	st.Phases, st.DeferPhase = phases, deferred
	return nil
}

// blueprint is that of the ActionSet's namespace: Kanister's, or Thaw's own.
func (b *Bridge) blueprint(ctx context.Context, namespace, name string) ([]byte, error) {
	for _, r := range []schema.GroupVersionResource{blueprint, ownBlueprint} {
		var o *unstructured.Unstructured
		err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
			o, err = b.Cluster.Dynamic.Resource(r).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
			return err
		})
		switch {
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err) && r == ownBlueprint:
			continue
		case err != nil:
			return nil, fmt.Errorf("blueprint %s/%s: %w", namespace, name, err)
		}
		return binding.Text(o)
	}
	return nil, fault.New(fault.User, "blueprint %s: not found in namespace %s, which is the ActionSet's", name, namespace)
}

// refuse ends an ActionSet of which nothing was started.
func (b *Bridge) refuse(ctx context.Context, k key, st *status, why error) error {
	st.State, st.Error.Message = stateFailed, short(why.Error(), mostMessage)
	for i := range st.Actions {
		st.Actions[i].fail(time.Now())
	}
	return b.write(ctx, k, func(*status) *status { return st })
}

// picture draws the runs into the ActionSet until all of them have ended.
func (b *Bridge) picture(ctx context.Context, k key, s *spec, runs []run) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var mu sync.Mutex
	changed := make(chan struct{}, 1)
	tell := func(i int, f func(*run)) {
		mu.Lock()
		f(&runs[i])
		mu.Unlock()
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop()
	for i := range runs {
		if runs[i].id == "" {
			runs[i].end = &end{message: fmt.Sprintf("is running by its status, and Temporal knows no workflow %q: Thaw did not start it, or its history is gone; what it did is not known, so it is not started again", id(k.namespace, k.name, string(k.uid), i))}
			continue
		}
		watching.Go(func() {
			b.observe(ctx, runs[i].id, s.Actions[i].Object.target(b.TaskQueue), func(f func(*run)) { tell(i, f) })
		})
	}
	told := map[string]bool{}
	for {
		mu.Lock()
		now := append([]run{}, runs...)
		mu.Unlock()
		ended := true
		for _, r := range now {
			ended = ended && r.end != nil
		}
		if err := b.write(ctx, k, func(was *status) *status {
			if was == nil {
				was = begin(s)
			}
			return picture(was, now, time.Now())
		}); err != nil || ended {
			return err
		}
		b.waiting(ctx, k, now, told)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// waiting says in events what a run waits for (an approval, say), and why
// something of it is tried again. told are those that were said.
func (b *Bridge) waiting(ctx context.Context, k key, runs []run, told map[string]bool) {
	for i, r := range runs {
		if r.end != nil || r.progress == nil {
			continue
		}
		all := []change{
			{reason: "Waiting", message: fmt.Sprintf("Action %s waits for %s; its workflow is %s", r.progress.Action, r.progress.WaitingFor, r.id), action: i},
			{reason: "Retrying", message: fmt.Sprintf("Action %s: tried again until it succeeds, or is skipped in workflow %s: %s", r.progress.Action, r.id, r.trouble), warning: true, action: i},
		}
		for n, what := range []string{r.progress.WaitingFor, r.trouble} {
			if what == "" || told[all[n].message] {
				continue
			}
			told[all[n].message] = true
			if o, _, err := b.get(ctx, k); err == nil {
				b.events.event(o, all[n])
			}
		}
	}
}

// write puts into the ActionSet's status what draw makes of it, until the API
// server has it. An ActionSet that is over stays as it is.
func (b *Bridge) write(ctx context.Context, k key, draw func(*status) *status) error {
	wait, most := time.Duration(0), mostOutputs
	for {
		o, s, err := b.get(ctx, k)
		if err != nil {
			return err
		}
		if s.status != nil && over(s.status.State) {
			return nil
		}
		after := draw(s.status)
		if left := after.fit(most); len(left) > 0 {
			b.Log.Warn("ActionSet: outputs are too large for its status and left out; they are in the run's history", "actionset", k.namespace+"/"+k.name, "phases", strings.Join(left, ", "))
		}
		if s.status != nil && equal(s.status, after) {
			return nil
		}
		err = b.update(ctx, o, after)
		switch {
		case err == nil:
			before := s.status
			if before == nil {
				before = &status{}
			}
			for _, c := range changes(before, after) {
				b.events.event(o, c)
				if c.warning {
					b.blame(ctx, o, after, c)
				}
			}
			return nil
		case apierrors.IsNotFound(err):
			return errGone
		case apierrors.IsConflict(err):
			if !sleep(ctx, 50*time.Millisecond) {
				return context.Cause(ctx)
			}
			continue // somebody was faster: read again
		case apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err), strings.Contains(err.Error(), "too large"):
			most /= 4
		}
		b.Log.Warn("ActionSet: status not written; trying again", "actionset", k.namespace+"/"+k.name, "error", err)
		if !pause(ctx, &wait, 15*time.Second) {
			return context.Cause(ctx)
		}
	}
}

func (b *Bridge) update(ctx context.Context, o *unstructured.Unstructured, st *status) error {
	next, err := with(o, st)
	if err != nil {
		return err
	}
	r := b.Cluster.Dynamic.Resource(actionSets).Namespace(o.GetNamespace())
	return cluster.Insist(ctx, nil, func(ctx context.Context) error {
		got, err := r.Update(ctx, next, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		// Kanister's resource has no status subresource. One that has takes no
		// status by an update of the whole.
		if state, _, _ := unstructured.NestedString(got.Object, "status", "state"); state != st.State {
			next.SetResourceVersion(got.GetResourceVersion())
			_, err = r.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		}
		return err
	})
}

// blame tells of a failure on the blueprint too, as Kanister does.
func (b *Bridge) blame(ctx context.Context, o *unstructured.Unstructured, st *status, c change) {
	i := max(c.action, 0)
	if i >= len(st.Actions) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	bp, err := b.Cluster.Dynamic.Resource(blueprint).Namespace(o.GetNamespace()).Get(ctx, st.Actions[i].Blueprint, metav1.GetOptions{})
	if err == nil {
		b.events.about(bp, string(o.GetUID()), c)
	}
}
