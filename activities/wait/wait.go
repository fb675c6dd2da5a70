// Package wait is the family of functions that wait: for objects of a cluster
// (Kanister's Wait and WaitV2), and for files, ports and addresses of the
// worker's host. Start with waitFor.
package wait

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const family = "wait"

// Functions of this family, on a cluster that may be nil.
func Functions(c *cluster.Cluster) []function.Function {
	return []function.Function{wait(c), waitV2(c)}
}

type waitArgs struct {
	Timeout    time.Duration  `arg:"timeout" default:"5m" doc:"how long to wait for the conditions"`
	For        time.Duration  `arg:"for" default:"0s" doc:"wait so long, in place of conditions"`
	Conditions map[string]any `arg:"conditions,raw" type:"object" doc:"{anyOf: [...], allOf: [...]}: one of the first, or all of the second, must hold. Each is one of {condition, objectReference} (a template with JSON paths: {{ if eq \"{ $.status.phase }\" \"Running\" }}true{{ end }}), {file: path}, {absent: path}, {tcp: host:port}, {http: url} (a 2xx answer)"`
}

type waitV2Args struct {
	Timeout    time.Duration  `arg:"timeout,required" doc:"how long to wait for the conditions"`
	Conditions map[string]any `arg:"conditions,required,raw" type:"object" doc:"{anyOf: [...], allOf: [...]} of {condition, objectReference}: one of the first, or all of the second, must hold; the condition is a template over the object that prints true"`
}

const waitLimit = 12 * time.Hour

func wait(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "Wait", Family: family,
		Summary:    "Wait until objects of the cluster, or a file, a port or an HTTP address of the host are as wanted, or for some time.",
		Idempotent: true, ReadOnly: true, Timeout: waitLimit,
	}, func(_ context.Context, env *function.Env, a waitArgs) (function.Act, func(), error) {
		w, err := newWaiter(c, env, "Wait", a.Timeout, a.Conditions, withPaths)
		if err != nil {
			return nil, nil, err
		}
		given := len(w.anyOf)+len(w.allOf) > 0
		switch {
		case a.For > 0 && given:
			return nil, nil, fault.New(fault.User, "Wait: for and conditions exclude each other")
		case a.For <= 0 && !given:
			return nil, nil, fault.New(fault.User, "Wait: give conditions (anyOf, allOf), or for")
		case a.For > 0:
			return func(ctx context.Context) (function.Outputs, error) { return function.Outputs{}, sleep(ctx, env, a.For) }, nil, nil
		}
		return w.act, nil, nil
	})
}

func waitV2(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "WaitV2", Family: family,
		Summary:    "Wait until objects of the cluster meet conditions (a template over the object).",
		Idempotent: true, ReadOnly: true, Timeout: waitLimit,
	}, func(_ context.Context, env *function.Env, a waitV2Args) (function.Act, func(), error) {
		w, err := newWaiter(c, env, "WaitV2", a.Timeout, a.Conditions, overObject)
		if err != nil {
			return nil, nil, err
		}
		if len(w.anyOf)+len(w.allOf) == 0 {
			return nil, nil, fault.New(fault.User, "WaitV2: give conditions (anyOf, allOf)")
		}
		return w.act, nil, nil
	})
}

func sleep(ctx context.Context, env *function.Env, d time.Duration) error {
	env.Heartbeat(fmt.Sprintf("waiting for %s", d))
	select {
	case <-ctx.Done():
		return fault.New(fault.Transient, "wait for %s: %w", d, context.Cause(ctx))
	case <-time.After(d):
		return nil
	}
}

// condition is one thing to wait for. unmet says what is missing; "" where it
// holds.
type condition interface {
	unmet(ctx context.Context) string
}

// waiter waits for conditions.
type waiter struct {
	name    string
	env     *function.Env
	timeout time.Duration
	anyOf   []condition
	allOf   []condition
	objects map[string]*object // what the conditions are on, by reference
	polls   bool               // some conditions cannot be watched
}

func newWaiter(c *cluster.Cluster, env *function.Env, name string, timeout time.Duration, raw map[string]any, how evaluation) (*waiter, error) {
	w := &waiter{name: name, env: env, timeout: timeout, objects: map[string]*object{}}
	if timeout <= 0 {
		return nil, fault.New(fault.User, "%s: timeout %s: want one above zero, such as 90s or 5m", name, timeout)
	}
	var in struct {
		AnyOf []given `arg:"anyOf"`
		AllOf []given `arg:"allOf"`
	}
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &in, TagName: "arg", WeaklyTypedInput: true, ErrorUnused: true})
	if err != nil {
		return nil, err
	}
	if err := dec.Decode(raw); err != nil {
		return nil, fault.New(fault.User, "%s: conditions: %w", name, err)
	}
	var faults []error
	for _, l := range []struct {
		what string
		from []given
		to   *[]condition
	}{{"anyOf", in.AnyOf, &w.anyOf}, {"allOf", in.AllOf, &w.allOf}} {
		for i, g := range l.from {
			c, err := w.condition(c, g, how)
			if err != nil {
				faults = append(faults, fmt.Errorf("conditions.%s[%d]: %w", l.what, i, err))
				continue
			}
			*l.to = append(*l.to, c)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return w, nil
}

// given is a condition as a blueprint writes it.
type given struct {
	hostCondition `arg:",squash"`

	Condition       string         `arg:"condition"`
	ObjectReference map[string]any `arg:"objectReference"`
}

func (w *waiter) condition(c *cluster.Cluster, g given, how evaluation) (condition, error) {
	onObject := g.Condition != "" || len(g.ObjectReference) > 0
	onHost := g.hostCondition != hostCondition{}
	switch {
	case onObject && onHost:
		return nil, fault.New(fault.User, "a condition is on an object, or on the host, not on both")
	case onObject:
		if err := c.Need(); err != nil {
			return nil, err
		}
		o, err := w.object(c, g.ObjectReference)
		if err != nil {
			return nil, err
		}
		return newObjectCondition(o, g.Condition, how)
	}
	w.polls = true
	return g.hostCondition, g.check()
}

func (w *waiter) act(ctx context.Context) (function.Outputs, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, w.timeout, fmt.Errorf("not met after %s", w.timeout))
	defer cancel()
	return function.Outputs{}, w.wait(ctx)
}

// wait looks whenever a watched object changes, and from time to time where
// there is nothing to watch.
func (w *waiter) wait(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	changed := make(chan struct{}, 1)
	refused := make(chan error, len(w.objects))
	for _, ref := range slices.Sorted(maps.Keys(w.objects)) {
		o := w.objects[ref]
		go func() {
			if err := o.watch(ctx, changed); err != nil {
				refused <- err
			}
		}()
	}
	unmet := ""
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		found := w.missing(ctx)
		if found == "" {
			return nil
		}
		// A look that the deadline cut short knows only that it was cut short.
		// The dialer keeps the deadline itself, and may be ahead of the context.
		if (ctx.Err() == nil && time.Now().Before(deadline)) || unmet == "" {
			unmet = found
		}
		w.env.Heartbeat("waiting: " + unmet)
		var tick <-chan time.Time
		if w.polls {
			tick = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Command, "%s: %s: %w", w.name, unmet, context.Cause(ctx))
		case err := <-refused:
			return fmt.Errorf("%s: %w", w.name, err)
		case <-changed:
		case <-tick:
		}
	}
}

// missing says what is missing: nothing where any of anyOf holds, or all of
// allOf do (Kanister's rule).
func (w *waiter) missing(ctx context.Context) string {
	var whys []string
	for _, c := range w.anyOf {
		why := c.unmet(ctx)
		if why == "" {
			return ""
		}
		whys = append(whys, why)
	}
	for _, c := range w.allOf {
		if why := c.unmet(ctx); why != "" {
			return strings.Join(append(whys, why), "; ")
		}
	}
	if len(w.allOf) > 0 {
		return ""
	}
	return strings.Join(whys, "; ")
}
