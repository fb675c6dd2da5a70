// Package function is what an activity family implements: a blueprint function
// is a value that declares its catalogue entry and how it runs. It knows no
// Temporal: the engine's activities (package activities) call it. Start with
// Function and Env.
package function

import (
	"context"
	"log/slog"
	"time"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

// Env is what a call gets from the worker: its identity, its limits, and the
// few services that it may use. It is made anew for each call; a function
// keeps no state outside its call.
type Env struct {
	Run   plan.Run
	Phase string
	// Key is the same in every attempt of this call and in no other call:
	// names of what a function creates, and idempotency keys, derive from it.
	// At most 40 characters of [a-z0-9-].
	Key string
	// Token and MaxFreeze are set for the functions of a freeze: `do` marks
	// what it locks with Token, and makes the lock end by itself after
	// MaxFreeze; `undo` thaws what carries Token.
	Token     string
	MaxFreeze time.Duration
	// Deadline after which `do` must not act any more. Zero elsewhere.
	Deadline time.Time
	Target   plan.Target
	// RestorePoint that the run makes or works on.
	RestorePoint plan.RestorePointRef
	Log          *slog.Logger // redacts secrets
	// Redact takes secrets out of a text. What a function says is redacted
	// anyway; it redacts by itself before it cuts a text, since nobody
	// recognises the half of a secret. May be nil.
	Redact  func(text string) string
	Secrets Secrets
	Holds   *Holds // freezes held by this worker process
	// StateDir is the worker's own directory.
	StateDir string
	// Heartbeat tells people how far a long call is; it may be called often.
	Heartbeat func(note string)
	// Lookup resolves a host's name to addresses: those of a cluster's services
	// and pods, which the worker's own resolver may not know, too. Nil: by the
	// worker's resolver alone.
	Lookup func(ctx context.Context, host string) ([]string, error)
	// Pod is what the run's input says of the pods that its calls make.
	Pod PodDefaults
	// Workload is what the target has at the start of the run: pods, and their
	// claims. Nil where it is no workload.
	Workload *plan.Workload
	// Profile is the run's location profile, its credentials in it. Nil where
	// the run has none, or the function does not declare that it uses one.
	Profile *templates.Profile
	// NoProfile is why a run's Profile could not be read, for a function that
	// may do without.
	NoProfile error

	// Owner is the Temporal that knows the run; see cluster.AnnotationOwner.
	Owner string
	// Activity is the id of the activity that makes the call.
	Activity string
	// Attempt counts the activity's attempts, from 1.
	Attempt int
	// Reported: the attempt before this one told its failure itself, and
	// Temporal asks for another: what it left is not to be taken as a result.
	Reported bool
	// Recalled is what an earlier attempt of this call, whose worker died or
	// let go of it, remembered last. It is no secret's place.
	Recalled string
	// Remember keeps a text for the next attempt. May be nil, in a freeze:
	// what happens there is not tried again by another worker.
	Remember func(text string)
	// Stopping reports whether the context ends because the worker stops: the
	// call goes on in another worker, so what runs for it is left running.
	Stopping func() bool
	// After runs clean once Temporal has the result of the call, so that no
	// later attempt can need what it takes away. A worker that dies before
	// does not run it: what remains is found by its marks.
	After func(clean func(ctx context.Context))
}

// PodDefaults are the parts of pods that a run's input gives (Kanister's
// podOverride, podLabels and podAnnotations of an ActionSet).
type PodDefaults struct {
	Override    map[string]any
	Labels      map[string]string
	Annotations map[string]string
}

// Secrets resolves references to secrets. What it returned is redacted from
// outputs, logs and errors of this worker from then on.
type Secrets interface {
	// Secret returns the keys of a secret. Errors: fault.User where there is
	// none of that name (the message says where it was looked for).
	Secret(ctx context.Context, ref plan.Reference) (map[string][]byte, error)
	// Named returns the secret that the run gave under that name
	// ("secrets": {"admin": {"name": "pg-admin"}}).
	Named(ctx context.Context, name string) (map[string][]byte, error)
}

// Outputs of a call. Values are strings, integers, booleans, or JSON data.
type Outputs = plan.Values

// Act is the part of a call that has an effect.
type Act func(ctx context.Context) (Outputs, error)

// Function is one blueprint function.
type Function struct {
	catalogue.Function
	// Bind decodes rendered arguments and prepares: it checks, looks up,
	// connects, but changes nothing. In a freeze, everything is bound before
	// `do` acts, so that only the Acts are inside the window.
	// Release, where not nil, frees what Bind took, after Act or without it.
	Bind func(ctx context.Context, env *Env, args map[string]any) (act Act, release func(), err error)
}

// New returns a function whose arguments are the struct A: its fields' tags
// declare them (see catalogue.Args).
func New[A any](entry catalogue.Function, run func(ctx context.Context, env *Env, args A) (Outputs, error)) Function {
	return Prepared(entry, func(_ context.Context, env *Env, args A) (Act, func(), error) {
		return func(ctx context.Context) (Outputs, error) { return run(ctx, env, args) }, nil, nil
	})
}

// Prepared returns a function with a preparation of its own.
func Prepared[A any](entry catalogue.Function, bind func(ctx context.Context, env *Env, args A) (Act, func(), error)) Function {
	var zero A
	entry.Args = catalogue.Args(zero)
	if entry.Timeout == 0 {
		entry.Timeout = DefaultTimeout
	}
	return Function{Function: entry, Bind: func(ctx context.Context, env *Env, raw map[string]any) (Act, func(), error) {
		var args A
		if err := entry.Decode(raw, &args); err != nil {
			return nil, nil, userError(err)
		}
		return bind(ctx, env, args)
	}}
}

// DefaultTimeout of one attempt of a function that declares none.
const DefaultTimeout = 10 * time.Minute
