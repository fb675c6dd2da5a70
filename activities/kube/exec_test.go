package kube

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"thaw/activities/cluster"
	"thaw/activities/function/functiontest"
	"thaw/blueprints/fault"
)

const kandoOutput = `printf '###Phase-output###:{"key":"%s","value":"%s"}\n' `

func TestKubeExec(t *testing.T) {
	s := newScene(t)
	s.pod("db")
	in := func(script string) map[string]any {
		return map[string]any{"namespace": s.ns, "pod": "db", "container": "two", "command": sh(script)}
	}
	for name, c := range map[string]struct {
		args map[string]any
		want map[string]any
		says []string
		kind fault.Kind
	}{
		"outputs":               {args: in(kandoOutput + "a 1; echo other >&2; " + kandoOutput + "b 2"), want: map[string]any{"a": "1", "b": "2"}},
		"no output":             {args: in("true"), want: map[string]any{}},
		"an output of 200 KiB":  {args: in(`v=$(head -c 200000 /dev/zero | tr '\0' x); ` + kandoOutput + `long "$v" | wc -c; ` + kandoOutput + `long "$v"`), want: nil},
		"an exit code":          {args: in("echo working; echo 'cannot lock the table' >&2; exit 17"), says: []string{"exit code 17", "cannot lock the table", s.ns + "/db", "container two"}, kind: fault.Command},
		"no such program":       {args: map[string]any{"namespace": s.ns, "pod": "db", "command": []any{"/no/such/program"}}, says: []string{"no such file"}, kind: fault.Command},
		"no such pod":           {args: map[string]any{"namespace": s.ns, "pod": "nobody", "command": sh("true")}, says: []string{"nobody", "not found"}, kind: fault.User},
		"no such container":     {args: map[string]any{"namespace": s.ns, "pod": "db", "container": "three", "command": sh("true")}, says: []string{`no container "three"`, "one, two"}, kind: fault.User},
		"an output that is bad": {args: in(`echo '###Phase-output###:{"key":'`), says: []string{"outputs cannot be read"}, kind: fault.Command},
		"the first container":   {args: map[string]any{"namespace": s.ns, "pod": "db", "command": sh(kandoOutput + `ok "$(pwd)"`)}, want: map[string]any{"ok": "/"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := s.call(t.Context(), functiontest.NewEnv(t, "thaw-exec"), "KubeExec", c.args)
			if len(c.says) > 0 {
				require.Error(t, err)
				for _, text := range c.says {
					require.ErrorContains(t, err, text)
				}
				require.Equal(t, c.kind, fault.Of(err))
				return
			}
			require.NoError(t, err)
			if c.want == nil {
				require.Len(t, out["long"], 200000)
				return
			}
			require.Equal(t, c.want, map[string]any(out))
		})
	}
}

// A command whose stream ends without the kubelet's word is not one that ended
// well: it may still run.
func TestKubeExecThatIsCutOffIsOfUnknownOutcome(t *testing.T) {
	s := newScene(t)
	s.pod("db")
	t.Run("its time is over", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := s.call(ctx, functiontest.NewEnv(t, "k"), "KubeExec", map[string]any{"namespace": s.ns, "pod": "db", "command": sh("echo begun; sleep 60")})
		require.Equal(t, fault.Unknown, fault.Of(err), "%v", err)
		require.ErrorContains(t, err, "begun")
	})
	t.Run("the pod is deleted", func(t *testing.T) {
		done := make(chan error, 1)
		go func() {
			_, err := s.call(t.Context(), functiontest.NewEnv(t, "k"), "KubeExec", map[string]any{"namespace": s.ns, "pod": "db", "command": sh("echo begun; exec sleep 60")})
			done <- err
		}()
		s.running("db", "sleep 60")
		s.kill("db")
		err := <-done
		require.Error(t, err)
		require.Contains(t, []fault.Kind{fault.Unknown, fault.Command}, fault.Of(err), "%v", err)
	})
}

func TestKubeExecAll(t *testing.T) {
	s := newScene(t)
	s.pod("a")
	s.pod("b")
	all := func(script string) map[string]any {
		return map[string]any{"namespace": s.ns, "pods": "a b", "containers": "one two", "command": sh(script)}
	}
	out, err := s.call(t.Context(), functiontest.NewEnv(t, "k"), "KubeExecAll", all(kandoOutput+`"$(hostname)" x; `+kandoOutput+`last "$(hostname)"`))
	require.NoError(t, err)
	require.Equal(t, map[string]any{"a": "x", "b": "x", "last": "b"}, map[string]any(out), "nothing is lost, and the last in the order given wins")

	_, err = s.call(t.Context(), functiontest.NewEnv(t, "k"), "KubeExecAll", all(`[ "$(hostname)" = a ] || { echo "b says no"; exit 3; }`))
	require.ErrorContains(t, err, "exit code 3")
	require.ErrorContains(t, err, "b says no")
	require.Equal(t, fault.Command, fault.Of(err))

	_, err = s.call(t.Context(), functiontest.NewEnv(t, "k"), "KubeExecAll", map[string]any{"namespace": s.ns, "pods": "a nobody", "containers": "one", "command": sh("touch /tmp/ran")})
	require.ErrorContains(t, err, "nobody")
	_, err = s.call(t.Context(), functiontest.NewEnv(t, "k"), "KubeExec", map[string]any{"namespace": s.ns, "pod": "a", "command": sh("test ! -e /tmp/ran")})
	require.NoError(t, err, "all are looked at before one is run")
}

// An API server that answers is not one that is away: what it refuses is
// refused, and what it cannot do now is asked again for a while only.
func TestExecThatTheServerAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status metav1.Status
		kind   fault.Kind
	}{
		"forbidden":   {metav1.Status{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "pods \"db\" is forbidden"}, fault.User},
		"no such pod": {metav1.Status{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound, Message: "pods \"db\" not found"}, fault.User},
		"the kubelet": {metav1.Status{Code: http.StatusInternalServerError, Reason: metav1.StatusReasonInternalError, Message: "unable to upgrade connection"}, fault.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			c.status.Kind, c.status.APIVersion, c.status.Status = "Status", "v1", metav1.StatusFailure
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(int(c.status.Code))
				_ = json.NewEncoder(w).Encode(c.status)
			}))
			defer server.Close()
			cl, err := cluster.New(&rest.Config{Host: server.URL}, "default")
			require.NoError(t, err)
			_, err = dial(t.Context(), cl, where{"shop", "db", ""}, []string{"true"})
			require.ErrorContains(t, err, c.status.Message)
			require.Equal(t, c.kind, fault.Of(err))
			var status apierrors.APIStatus
			require.ErrorAs(t, err, &status, "it is known that the server answered")
		})
	}
}
