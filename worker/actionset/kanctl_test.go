package actionset_test

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// Kanister's own command line drives Thaw, unchanged: THAW_KANCTL is its path.
func TestKanctl(t *testing.T) {
	path := os.Getenv("THAW_KANCTL")
	if path == "" {
		t.Skip("THAW_KANCTL is not set: the path of Kanister's kanctl")
	}
	s := newScene(t)
	s.create(timeLogger)
	s.create(timeLog)
	s.kubectl("", "rollout", "status", "-n", s.ns, "deployment/time-logger", "--timeout=90s")
	create := func(args ...string) actionSet {
		t.Helper()
		cmd := exec.CommandContext(context.Background(), path, append([]string{"create", "actionset", "-n", s.ns}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		name := regexp.MustCompile(`actionset (\S+) created`).FindSubmatch(out)
		require.NotNil(t, name, "%s", out)
		a := s.over(string(name[1]))
		require.Equal(t, "complete", a.Status.State, a.Status.Error.Message)
		return a
	}
	backup := create("--action", "backup", "--blueprint", "time-log-bp", "--deployment", s.ns+"/time-logger",
		"--config-maps", "location="+s.ns+"/store-location", "--secrets", "store="+s.ns+"/store-credentials", "--options", "by=kanctl", "--podlabels", "team=a")
	require.Equal(t, "kanctl", backup.Status.Actions[0].Artifacts["timeLog"].KeyValue["by"])
	restore := create("--action", "restore", "--from", backup.Metadata.Name)
	require.Equal(t, "s3://time-log-test-bucket/tutorial/time-log", restore.Status.Actions[0].Phases[0].Output["from"])
}
