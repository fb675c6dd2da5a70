package sql

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/activities/function"
	"thaw/activities/function/functiontest"
	"thaw/internal/testdb"
)

const childVar = "THAW_SQL_TEST_CHILD"

func TestMain(m *testing.M) {
	HelperMain()
	testdb.ChildMain()
	if spec := os.Getenv(childVar); spec != "" {
		freezeAsChild(spec)
	}
	code := m.Run()
	stage.Close()
	os.Exit(code)
}

// childSpec is a freeze that a child process makes, as a worker would.
type childSpec struct {
	Args      map[string]any
	Secret    map[string][]byte
	Token     string
	MaxFreeze time.Duration
	StateDir  string
	Stop      bool // stop itself, helper not included
}

func freezeAsChild(spec string) {
	var c childSpec
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		panic(err)
	}
	env := &function.Env{
		Token: c.Token, MaxFreeze: c.MaxFreeze, StateDir: c.StateDir, Holds: function.NewHolds(),
		Log: slog.New(slog.DiscardHandler), Secrets: functiontest.Secrets{"admin": c.Secret},
	}
	act, _, err := find("SQLFreeze").Bind(context.Background(), env, c.Args)
	if err == nil {
		_, err = act(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("frozen")
	if c.Stop {
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
	}
	select {}
}

func find(name string) function.Function {
	for _, f := range Functions() {
		if f.Name == name {
			return f
		}
	}
	panic(name)
}

func newEnv(t *testing.T, secret map[string][]byte) *function.Env {
	t.Helper()
	return &function.Env{
		Token: fmt.Sprintf("t-%d", time.Now().UnixNano()), MaxFreeze: time.Minute, StateDir: t.TempDir(),
		Holds: function.NewHolds(), Log: slog.New(slog.DiscardHandler), Secrets: functiontest.Secrets{"admin": secret},
	}
}

func call(ctx context.Context, env *function.Env, name string, args map[string]any) (function.Outputs, error) {
	act, release, err := find(name).Bind(ctx, env, args)
	if err != nil {
		return nil, err
	}
	if release != nil {
		defer release()
	}
	return act(ctx)
}

func mustCall(t *testing.T, env *function.Env, name string, args map[string]any) function.Outputs {
	t.Helper()
	out, err := call(t.Context(), env, name, args)
	require.NoError(t, err)
	return out
}

// elsewhere is another worker process on the same host: it holds nothing.
func elsewhere(env *function.Env) *function.Env {
	other := *env
	other.Holds = function.NewHolds()
	return &other
}
