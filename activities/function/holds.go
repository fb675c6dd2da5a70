package function

import (
	"context"
	"strings"
	"sync"

	"thaw/blueprints/fault"
)

func userError(err error) error { return fault.New(fault.User, "%w", err) }

// SecretKey returns one key of a secret of the run, named as blueprints name
// it in arguments that take one: "secretName/key".
func SecretKey(ctx context.Context, env *Env, ref string) (string, error) {
	name, key, ok := strings.Cut(ref, "/")
	if !ok || name == "" || key == "" {
		return "", fault.New(fault.User, "%q: write secretName/key", ref)
	}
	secret, err := env.Secrets.Named(ctx, name)
	if err != nil {
		return "", err
	}
	v, ok := secret[key]
	if !ok {
		return "", fault.New(fault.User, "secret %q has no key %q", name, key)
	}
	return string(v), nil
}

// Hold is a freeze that lives in this process: a database session, or a helper
// process. The family that added it knows its real type.
type Hold interface {
	// End lets go of the lock at once, whatever state it is in. It is safe to
	// call twice.
	End(ctx context.Context) error
}

// Holds are the freezes held by this process, by token.
type Holds struct {
	mu    sync.Mutex
	holds map[string]Hold
}

// NewHolds returns an empty set.
func NewHolds() *Holds { return &Holds{holds: map[string]Hold{}} }

// Add keeps a hold under its token.
func (h *Holds) Add(token string, hold Hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.holds[token] = hold
}

// Take removes and returns the hold of that token; the caller ends it.
func (h *Holds) Take(token string) (Hold, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	hold, ok := h.holds[token]
	delete(h.holds, token)
	return hold, ok
}

// Tokens lists what is held.
func (h *Holds) Tokens() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	tokens := make([]string, 0, len(h.holds))
	for t := range h.holds {
		tokens = append(tokens, t)
	}
	return tokens
}
