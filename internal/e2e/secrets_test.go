package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"thaw/activities/secret"
	"thaw/blueprints/plan"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
)

// vault is the scene of TestSecretsStayOnTheWorker: secrets wherever one can
// come from, and all that is said where they could come out.
type vault struct {
	*scene
	*search
	marker  string // no secret: it must be found
	pg      *testdb.Postgres
	data    string
	echo    *httptest.Server
	heard   atomic.Int32 // requests that carried the secret header
	file    string
	printed strings.Builder
}

func newVault(t *testing.T) *vault {
	t.Helper()
	v := &vault{scene: newScene(t, "/bin/sh"), search: newSearch(), pg: testdb.StartPostgres(t), marker: fmt.Sprintf("marker-%x", random(20))}
	write := func(name, key string, more map[string][]byte) {
		data := map[string][]byte{key: []byte(v.plant(name) + "\n")}
		for k, m := range more {
			data[k] = m
		}
		testenv.WriteSecret(t, v.cfg, name, data)
	}
	who := map[string][]byte{"username": []byte(v.pg.User), "sslmode": []byte("disable")}
	write("admin", "password", who)
	write("wrong", "password", who)
	write("exec", "token", nil)
	write("tmpl", "token", nil)
	write("objects", "token", nil)
	write("hook", "auth", map[string][]byte{"sign": []byte(v.plant("sign"))})
	_, err := v.pg.DB.ExecContext(t.Context(), "ALTER ROLE "+v.pg.User+" PASSWORD '"+v.planted["admin"]+"'")
	require.NoError(t, err)

	v.data = filepath.Join(v.dir, "data")
	require.NoError(t, os.Mkdir(v.data, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(v.data, "file"), []byte("data\n"), 0o600))
	v.file, err = filepath.Abs(filepath.Join("testdata", "secrets.yaml"))
	require.NoError(t, err)

	// As many servers do, it tells a client what it sent.
	v.echo = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == v.planted["hook"] && r.Header.Get("X-Thaw-Signature") != "" {
			v.heard.Add(1)
		}
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusForbidden)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"authorization": r.Header.Get("Authorization"), "body": string(body), "headers": fmt.Sprint(r.Header)})
	}))
	t.Cleanup(v.echo.Close)
	return v
}

// run runs thaw, and keeps what it printed.
func (v *vault) run(args ...string) (string, error) {
	out, errs, err := v.command("thaw", args...)
	v.printed.WriteString(out + errs)
	return out + errs, err
}

func (v *vault) action(name, id string, more ...string) []string {
	args := []string{"run", "secrets." + name, "-f", v.file, "--target", "postgres:" + v.pg.Addr, "--id", id, "-o", "json",
		"--option", "marker=" + v.marker, "--option", "data=" + v.data, "--option", "url=" + v.echo.URL}
	for _, s := range []string{"admin", "wrong", "exec", "tmpl", "hook"} {
		args = append(args, "--secret", s+"="+s)
	}
	return append(args, more...)
}

// Issue 3, outcome 5: nothing of a secret leaves the worker, whatever happens.
func TestSecretsStayOnTheWorker(t *testing.T) {
	v := newVault(t)

	out, err := v.run(v.action("backup", "dry", "--plan")...)
	require.NoError(t, err, out)
	require.Contains(t, out, secret.Mask)
	require.Contains(t, out, v.marker)

	out, err = v.run(v.action("backup", "backup")...)
	require.NoError(t, err, out)
	outcome, err := v.result("backup")
	require.NoError(t, err)
	rp := outcome.RestorePoint
	require.True(t, rp.Consistent, rp.Consistency)
	kept := rp.Artifacts["data"].KeyValue
	assert.Equal(t, []string{v.marker, secret.Mask, secret.Mask}, []string{kept["marker"], kept["fromSecret"], kept["fromOutput"]})
	v.outputsAreMasked("backup")

	for _, f := range []struct{ action, says string }{
		{"failExec", "exit code 3: no: " + secret.Mask},
		{"failExecBase64", "exit code 3"},
		{"failExecCut", "exit code 3"},
		{"failExecProtocol", "output key"},
		{"failArgs", "exit code 3: no: " + secret.Mask},
		{"failNotAllowed", "may not run it"},
		{"failHTTP", "status 403"},
		{"failSQL", `"` + secret.Mask + `"`},
		{"failExpect", `returned "` + secret.Mask + `"`},
		{"failExpectCut", "it returned"},
		{"failConnect", "password authentication failed"},
		{"failFreeze", "exit code 3: no: " + secret.Mask + " " + secret.Mask},
	} {
		out, err := v.run(v.action(f.action, f.action)...)
		require.Error(t, err, f.action)
		assert.Contains(t, out, f.says, f.action)
	}

	_, err = v.run("run", "secrets.restore", "--from", rp.ID, "--id", "restore", "--detach", "--option", "marker="+v.marker)
	require.NoError(t, err)
	p := v.awaitState("restore", "waiting-for-approval")
	_, err = v.run("approve", "restore", "--digest", p.Digest)
	require.NoError(t, err)
	outcome, err = v.result("restore")
	require.NoError(t, err)
	assert.Equal(t, secret.Mask, outcome.Results["load"]["token"])
	assert.Equal(t, int32(2), v.heard.Load(), "the server got the secrets that it echoed: they were there to leak")

	v.nothingIsFound()
}

// outputsAreMasked: each way of an output was taken, and masked.
func (v *vault) outputsAreMasked(id string) {
	v.t.Helper()
	masked := map[string]bool{}
	for _, ev := range testenv.History(v.t.Context(), v.t, v.client, id, "").GetEvents() {
		var r plan.CallResult
		done := ev.GetActivityTaskCompletedEventAttributes()
		if done == nil || converter.GetDefaultDataConverter().FromPayloads(done.GetResult(), &r) != nil {
			continue
		}
		for k, o := range r.Output {
			masked[k] = strings.Contains(fmt.Sprint(o), secret.Mask)
		}
	}
	for _, k := range []string{"plain", "base64", "wrapped", "hex", "upper", "nested", "first", "second", "seen", "echo", "last"} {
		assert.True(v.t, masked[k], "output %s is masked", k)
	}
}

// nothingIsFound searches everything that is outside the worker, and what the
// worker itself writes. In each place the marker is found: a place that says
// nothing would prove nothing.
func (v *vault) nothingIsFound() {
	t := v.t
	t.Helper()
	control := newSearch()
	control.learn("marker", strings.TrimPrefix(v.marker, "marker-"))
	check := func(place string, b []byte) {
		assert.Empty(t, v.find(b), place)
		assert.NotEmpty(t, control.find(b), "the marker is in %s", place)
	}
	check("what thaw printed", []byte(v.printed.String()))

	var histories, visible []byte
	for _, id := range v.everyRun() {
		for _, ev := range testenv.History(t.Context(), t, v.client, id[0], id[1]).GetEvents() {
			histories = append(histories, marshal(t, ev)...) // payloads stand in it as they are: JSON
		}
		d, err := v.client.DescribeWorkflowExecution(t.Context(), id[0], id[1])
		require.NoError(t, err)
		visible = append(visible, marshal(t, d)...)
		q, err := v.client.QueryWorkflow(t.Context(), id[0], id[1], "__temporal_workflow_metadata")
		require.NoError(t, err)
		var details sdkpb.WorkflowMetadata
		require.NoError(t, q.Get(&details))
		visible = append(visible, marshal(t, &details)...)
		if _, err := v.run("describe", id[0], "-o", "json"); err != nil {
			t.Errorf("describe %s: %v", id[0], err)
		}
	}
	check("the histories", histories)
	assert.Empty(t, v.find(visible), "search attributes, memos, details")
	assert.Contains(t, string(visible), v.pg.Addr, "they say which target it is")
	check("what thaw describes", []byte(v.printed.String()))

	log, err := os.ReadFile(filepath.Join(v.cfg.StateDir, "worker.log"))
	require.NoError(t, err)
	check("the worker's log", log)
	assert.Contains(t, string(log), "log "+secret.Mask)

	v.worker.Stop() // what it has left to write
	for place, dir := range map[string]string{"the state directory": v.cfg.StateDir, "the restore points": v.cfg.Location, "the server's files": filepath.Join(v.dir, "server")} {
		found, _ := v.tree(t, dir, func(path string) bool { return strings.HasSuffix(path, ".tar.zst") })
		assert.Empty(t, found, place)
		said, read := control.tree(t, dir, nil)
		assert.NotEmpty(t, said, "the marker is in %s", place)
		t.Logf("%s: %d bytes searched", place, read)
	}
}

// everyRun lists all workflows, once they are all over and visible.
func (v *vault) everyRun() (ids [][2]string) {
	v.t.Helper()
	testenv.Await(v.t, 20*time.Second, "all runs are visible", func() bool {
		ids = nil
		r, err := v.client.ListWorkflow(v.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{PageSize: 1000})
		if err != nil {
			return false
		}
		for _, e := range r.GetExecutions() {
			ids = append(ids, [2]string{e.GetExecution().GetWorkflowId(), e.GetExecution().GetRunId()})
		}
		n, err := v.client.CountWorkflow(v.t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: "ExecutionStatus = 'Running'"})
		return err == nil && n.GetCount() == 0 && len(ids) >= 17
	})
	return ids
}

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}
