package kube

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
