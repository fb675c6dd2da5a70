package wait

import (
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
)

func TestWait(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	defer up.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	file := filepath.Join(t.TempDir(), "file")
	all := func(c ...any) map[string]any {
		return map[string]any{"timeout": "300ms", "conditions": map[string]any{"allOf": c}}
	}
	tcp, web := map[string]any{"tcp": l.Addr().String()}, map[string]any{"http": up.URL}
	for name, c := range map[string]struct {
		args map[string]any
		says string
		kind fault.Kind
	}{
		"all are met":              {args: all(tcp, web, map[string]any{"absent": file})},
		"for":                      {args: map[string]any{"for": "20ms"}},
		"one of two":               {args: map[string]any{"conditions": map[string]any{"anyOf": []any{map[string]any{"file": file}, tcp}}}},
		"one is not met":           {all(tcp, map[string]any{"file": file}), "no such file", fault.Command},
		"nobody listens":           {all(map[string]any{"tcp": "127.0.0.1:1"}), "refused", fault.Command},
		"Kanister's own condition": {all(map[string]any{"condition": "true", "objectReference": map[string]any{"name": "x"}}), "no Kubernetes cluster", fault.User},
		"nothing to wait for":      {map[string]any{}, "give conditions", fault.User},
		"two in one":               {all(map[string]any{"tcp": "a:1", "file": "/x"}), "exactly one", fault.User},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := functiontest.Call(t.Context(), t, Functions(nil), functiontest.NewEnv(t, "k"), "Wait", c.args)
			require.Less(t, time.Since(start), 5*time.Second)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.kind, fault.Of(err))
		})
	}
}

func TestConditionsOnAnObject(t *testing.T) {
	object := map[string]any{
		"metadata": map[string]any{"name": "db"},
		"status": map[string]any{"phase": "Running", "ready": int64(2), "conditions": []any{
			map[string]any{"type": "Ready", "status": "True"}, map[string]any{"type": "Paused", "status": "False"},
		}},
		"spec": map[string]any{"replicas": int64(2)},
	}
	for name, c := range map[string]struct {
		how   evaluation
		text  string
		want  string
		fails string
	}{
		"a path":              {withPaths, `{{ if eq "{ $.status.phase }" "Running" }}true{{ else }}false{{ end }}`, "true", ""},
		"a path without room": {withPaths, `{{if eq "{$.status.phase}" "Running"}}true{{end}}`, "true", ""},
		"a path that filters": {withPaths, `{{ if eq "{ $.status.conditions[?(@.type=="Ready")].status }" "True" }}true{{ end }}`, "true", ""},
		"two paths":           {withPaths, `{{ if eq "{ $.status.ready }" "{ $.spec.replicas }" }}true{{ end }}`, "true", ""},
		"a path with nothing": {withPaths, `{{ if eq "{ $.status.nothing }" "x" }}true{{ end }}`, "", "nothing"},
		"a bare path":         {withPaths, `{ $.status.ready }`, "2", ""},
		"a template over it":  {overObject, `{{ if and (eq .status.phase "Running") (eq .status.ready .spec.replicas) }}true{{ end }}`, "true", ""},
		"a range over it":     {overObject, `{{ range .status.conditions }}{{ if and (eq .type "Ready") (eq .status "True") }}true{{ end }}{{ end }}`, "true", ""},
		"kubectl's exists":    {overObject, `{{ exists . "status" "phase" }}`, "true", ""},
		"what is not there":   {overObject, `{{ exists . "status" "nothing" }}`, "false", ""},
	} {
		t.Run(name, func(t *testing.T) {
			eval, err := c.how(c.text)
			require.NoError(t, err)
			got, err := eval(object)
			if c.fails != "" {
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestConditionsThatDoNotParse(t *testing.T) {
	on := map[string]any{"name": "x", "kind": "pod", "namespace": "n"}
	_, err := newWaiter(nil, nil, "WaitV2", time.Minute, map[string]any{"allOf": []any{map[string]any{"condition": "{{ if }}", "objectReference": on}}}, overObject)
	require.ErrorContains(t, err, "no Kubernetes cluster")
	_, err = newObjectCondition(&object{}, "{{ if }}", overObject)
	require.Error(t, err)
	_, err = newObjectCondition(&object{}, "{ $.a[ }", withPaths)
	require.Error(t, err)
	_, err = newObjectCondition(&object{}, "", withPaths)
	require.ErrorContains(t, err, "prints true")
}
