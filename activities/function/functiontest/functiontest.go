// Package functiontest is what the tests of every activity family share.
package functiontest

import (
	"context"
	"errors"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

// Secrets are those of a run, by the name that it gave them.
type Secrets map[string]map[string][]byte

// Named implements function.Secrets.
func (s Secrets) Named(_ context.Context, name string) (map[string][]byte, error) {
	v, ok := s[name]
	if !ok {
		return nil, fault.New(fault.User, "no secret named %q", name)
	}
	return v, nil
}

// Secret implements function.Secrets: families ask by the run's names only.
func (s Secrets) Secret(context.Context, plan.Reference) (map[string][]byte, error) {
	return nil, errors.New("not asked here")
}
