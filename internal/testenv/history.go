package testenv

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	enums "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/encoding/protojson"

	"thaw/internal/testdb"
)

// History reads a run's history whole.
func History(ctx context.Context, t testdb.TB, c client.Client, id, runID string) *historypb.History {
	t.Helper()
	var h historypb.History
	events := c.GetWorkflowHistory(ctx, id, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		ev, err := events.Next()
		if err != nil {
			t.Fatalf("history of %s: %v", id, err)
		}
		h.Events = append(h.Events, ev)
	}
	return &h
}

var identity = regexp.MustCompile(`"identity": ?"[^"]*"`)

// Record writes a history for replay tests, without the names of this machine.
func Record(ctx context.Context, t testdb.TB, c client.Client, id, runID, file string) {
	t.Helper()
	b, err := protojson.MarshalOptions{Indent: " "}.Marshal(History(ctx, t, c, id, runID))
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		b = identity.ReplaceAll(b, []byte(`"identity":"worker"`))
		err = os.WriteFile(file, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatalf("record %s: %v", id, err)
	}
}

// Keep records the history of a test's run for the replay tests, where
// THAW_RECORD names a directory.
func Keep(t testing.TB, c client.Client, name, id string) {
	t.Helper()
	if dir := os.Getenv("THAW_RECORD"); dir != "" {
		Record(context.Background(), t, c, id, "", filepath.Join(dir, Slug(t.Name())+"-"+name+".json"))
	}
}

// Slug is a file name for a sentence.
func Slug(s string) string {
	return strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(s), "-"), "-")
}
