package blueprints_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
)

// A condition of Kanister's Wait is a template only once its JSON paths have
// given way to their values: a path may have quotes.
func TestConditionsWithPathsLint(t *testing.T) {
	for condition, says := range map[string]string{
		`{{ if eq "{ $.status.conditions[?(@.type=="Ready")].status }" "True" }}true{{ end }}`: "",
		`{{ if eq "{$.status.phase}" "Running" }}true{{ end }}`:                                "",
		`{{ if eq "{ $.status.phase }" "Running" }}true`:                                       "does not parse",
	} {
		bp, faults := blueprints.Parse("wait.yaml", []byte(`
apiVersion: cr.kanister.io/v1alpha1
kind: Blueprint
metadata: {name: wait}
actions:
  backup:
    phases:
    - func: Wait
      name: wait
      args:
        timeout: 60s
        conditions: {anyOf: [{condition: '`+condition+`', objectReference: {apiVersion: v1, resource: pods, name: '{{ .Object.metadata.name }}', namespace: shop}}]}
`))
		require.NoError(t, faults.Err())
		err := blueprints.Lint(bp, catalogue.Default()).Err()
		if says == "" {
			require.NoError(t, err, condition)
			continue
		}
		require.ErrorContains(t, err, says)
	}
}
