package wiring

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"thaw/blueprints/catalogue"
	"thaw/worker/actionset"
)

// The optional role that `thaw rbac` prints is what the bridge declares.
func TestRoleOfActionSetsIsWhatTheBridgeDeclares(t *testing.T) {
	role, ok := catalogue.RoleOf("actionsets")
	assert.True(t, ok)
	assert.Equal(t, actionset.Rules, role.Rules)
}
