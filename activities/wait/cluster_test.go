package wait

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/function/functiontest"
	"thaw/blueprints/catalogue"
	"thaw/internal/testcluster"
)

// Wait and WaitV2 list and watch the kind that their conditions name, and ask
// nothing else.
func TestWhatConditionsAskOfTheObjectsKind(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	for name, condition := range map[string]string{
		"Wait":   `{{ if eq "{ $.data.phase }" "done" }}true{{ end }}`,
		"WaitV2": `{{ if eq .data.phase "done" }}true{{ end }}`,
	} {
		t.Run(name, func(t *testing.T) {
			object := "of-" + map[string]string{"Wait": "wait", "WaitV2": "wait-v2"}[name]
			maps := c.Kube.CoreV1().ConfigMaps(ns)
			made, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: object}, Data: map[string]string{"phase": "begun"}}, metav1.CreateOptions{})
			require.NoError(t, err)
			rules := []catalogue.Rule{{Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}}}
			own, asked := testcluster.Least(t, c, rules, ns)
			done := make(chan error, 1)
			go func() {
				_, err := functiontest.Call(t.Context(), t, Functions(own), functiontest.NewEnv(t, "k"), name, map[string]any{
					"timeout": testcluster.Wait.String(),
					"conditions": map[string]any{"allOf": []any{map[string]any{
						"condition": condition, "objectReference": map[string]any{"apiVersion": "v1", "resource": "configmaps", "name": object, "namespace": ns},
					}}},
				})
				done <- err
			}()
			require.Eventually(t, func() bool { return len(asked.Verbs()) == 2 }, testcluster.Wait, testcluster.Tick)
			made.Data["phase"] = "done"
			_, err = maps.Update(t.Context(), made, metav1.UpdateOptions{})
			require.NoError(t, err)
			require.NoError(t, <-done)
			testcluster.Everything(t, name, rules, nil, asked)
		})
	}
}

// A worker that may not look says so at once: it does not wait in vain.
func TestConditionsOnWhatIsNotAllowedFailAtOnce(t *testing.T) {
	c := testcluster.Open(t)
	ns := testcluster.Namespace(t, c)
	own, _ := testcluster.Least(t, c, nil, ns)
	ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
	defer cancel()
	_, err := functiontest.Call(ctx, t, Functions(own), functiontest.NewEnv(t, "k"), "WaitV2", map[string]any{
		"timeout": "1h",
		"conditions": map[string]any{"anyOf": []any{map[string]any{
			"condition": "true", "objectReference": map[string]any{"apiVersion": "v1", "resource": "configmaps", "name": "x", "namespace": ns},
		}}},
	})
	require.ErrorContains(t, err, `cannot list resource "configmaps"`)
}
