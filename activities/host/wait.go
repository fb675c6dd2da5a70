package host

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"

	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type waitArgs struct {
	Timeout    string         `arg:"timeout" default:"5m" doc:"how long to wait for the conditions"`
	For        time.Duration  `arg:"for" default:"0s" doc:"wait so long, in place of conditions"`
	Conditions map[string]any `arg:"conditions" type:"object" doc:"{anyOf: [...], allOf: [...]}; each condition is one of {file: path}, {absent: path}, {tcp: host:port}, {http: url} (a 2xx answer). Kanister's conditions on objects ({condition, objectReference}) need a worker with Kubernetes"`
}

// condition is one thing to wait for.
type condition struct {
	File   string `arg:"file"`
	Absent string `arg:"absent"`
	TCP    string `arg:"tcp"`
	HTTP   string `arg:"http"`

	Condition       string         `arg:"condition"`
	ObjectReference map[string]any `arg:"objectReference"`
}

func wait() function.Function {
	return function.Prepared(catalogue.Function{
		Name: "Wait", Family: family,
		Summary:    "Wait until a file, a port or an HTTP address of the host is as wanted, or for some time.",
		Idempotent: true, ReadOnly: true,
		Timeout: time.Hour,
	}, func(_ context.Context, env *function.Env, a waitArgs) (function.Act, func(), error) {
		timeout, err := time.ParseDuration(a.Timeout)
		if err != nil || timeout <= 0 {
			return nil, nil, fault.New(fault.User, "wait: timeout %q: write it as 90s or 5m", a.Timeout)
		}
		anyOf, allOf, err := parseConditions(a.Conditions)
		if err != nil {
			return nil, nil, err
		}
		if a.For > 0 && len(anyOf)+len(allOf) > 0 {
			return nil, nil, fault.New(fault.User, "wait: for and conditions exclude each other")
		}
		if a.For <= 0 && len(anyOf)+len(allOf) == 0 {
			return nil, nil, fault.New(fault.User, "wait: give conditions (anyOf, allOf), or for")
		}
		return func(ctx context.Context) (function.Outputs, error) {
			if a.For > 0 {
				heartbeat(env, "waiting for %s", a.For)
				select {
				case <-ctx.Done():
					return nil, fault.New(fault.Transient, "wait for %s: %w", a.For, context.Cause(ctx))
				case <-time.After(a.For):
					return function.Outputs{}, nil
				}
			}
			return function.Outputs{}, waitFor(ctx, env, timeout, anyOf, allOf)
		}, nil, nil
	})
}

func parseConditions(raw map[string]any) (anyOf, allOf []condition, err error) {
	var in struct {
		AnyOf []condition `arg:"anyOf"`
		AllOf []condition `arg:"allOf"`
	}
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: &in, TagName: "arg", WeaklyTypedInput: true, ErrorUnused: true})
	if err != nil {
		return nil, nil, err
	}
	if err := dec.Decode(raw); err != nil {
		return nil, nil, fault.New(fault.User, "wait: conditions: %w", err)
	}
	for _, c := range append(append([]condition{}, in.AnyOf...), in.AllOf...) {
		if c.Condition != "" || len(c.ObjectReference) > 0 {
			return nil, nil, fault.New(fault.User, "wait: a condition on a Kubernetes object: this worker has no Kubernetes; run the action on the task queue of a worker that has, or wait for file, absent, tcp or http")
		}
		given := 0
		for _, s := range []string{c.File, c.Absent, c.TCP, c.HTTP} {
			if s != "" {
				given++
			}
		}
		if given != 1 {
			return nil, nil, fault.New(fault.User, "wait: a condition is exactly one of file, absent, tcp, http")
		}
	}
	return in.AnyOf, in.AllOf, nil
}

func waitFor(ctx context.Context, env *function.Env, timeout time.Duration, anyOf, allOf []condition) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not met after %s", timeout))
	defer cancel()
	deadline, _ := ctx.Deadline()
	unmet := ""
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		found := unmetConditions(ctx, anyOf, allOf)
		if found == "" {
			return nil
		}
		// A check that the deadline cut short knows only that it was cut short.
		// The dialer keeps the deadline itself, and may be ahead of the context.
		if (ctx.Err() == nil && time.Now().Before(deadline)) || unmet == "" {
			unmet = found
		}
		heartbeat(env, "waiting: %s", unmet)
		select {
		case <-ctx.Done():
			return fault.New(fault.Command, "wait: %s: %w", unmet, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func unmetConditions(ctx context.Context, anyOf, allOf []condition) string {
	for _, c := range allOf {
		if why := c.unmet(ctx); why != "" {
			return why
		}
	}
	var whys []string
	for _, c := range anyOf {
		why := c.unmet(ctx)
		if why == "" {
			return ""
		}
		whys = append(whys, why)
	}
	return strings.Join(whys, "; ")
}

// unmet says what is missing; "" where the condition holds.
func (c condition) unmet(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch {
	case c.File != "":
		if _, err := os.Stat(c.File); err != nil {
			return err.Error()
		}
	case c.Absent != "":
		if _, err := os.Lstat(c.Absent); err == nil {
			return c.Absent + " is still there"
		}
	case c.TCP != "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.TCP)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
	case c.HTTP != "":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.HTTP, nil)
		if err != nil {
			return err.Error()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return c.HTTP + ": " + resp.Status
		}
	}
	return ""
}
