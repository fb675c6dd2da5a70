package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/internal/location"
	"thaw/internal/testcorpus"
	"thaw/internal/teststore"
)

// The scripts of the public blueprint of MongoDB, as they are, with kando
// itself. MongoDB's own tools cannot be had here: what stands for them gives a
// dump, and keeps what it is given.
func TestTheScriptsOfMongoDBOfTheCorpus(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testcorpus.Need(t), "kanister", "mongodb", "mongodb-blueprint.yaml"))
	require.NoError(t, err)
	bp, faults := blueprints.Parse("mongodb-blueprint.yaml", text)
	require.NoError(t, faults.Err())
	tools, kept := t.TempDir(), t.TempDir()
	for name, script := range map[string]string{
		"mongodump":    `#!/bin/sh` + "\n" + `echo "$@" > "$KEPT/dump.args"; tee "$KEPT/dump" < "$KEPT/database"`,
		"mongorestore": `#!/bin/sh` + "\n" + `echo "$@" > "$KEPT/restore.args"; cat > "$KEPT/database"`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(tools, name), []byte(script), 0o700))
	}
	database := filepath.Join(kept, "database")
	content := []byte("what is in the database\n\x00\xff")
	require.NoError(t, os.WriteFile(database, content, 0o600))
	profile := teststore.S3(t)

	p := render.FromScope(plan.Scope{Target: plan.Target{Kind: "StatefulSet", Name: "mongo", Namespace: "shop"}, Time: "2026-11-29T10:00:00Z"})
	p.Profile = &profile
	root := map[string][]byte{"mongodb-root-password": []byte("secret")}
	do := func(action string) {
		a, ok := bp.Action(action)
		require.True(t, ok)
		ph := a.Phases[0]
		p.Phases = map[string]*render.Phase{ph.Name: {Secrets: map[string]render.Secret{"mongosecret": {Data: root}}}}
		command, _ := ph.Args["command"].([]any)
		require.Equal(t, "bash", command[0])
		var args []string
		for _, c := range command[1:] {
			s, err := render.String(c.(string), p, render.Options{})
			require.NoError(t, err)
			args = append(args, s)
		}
		cmd := exec.CommandContext(t.Context(), "bash", args...)
		cmd.Env = append(environ(t), "KEPT="+kept)
		for i, e := range cmd.Env {
			if len(e) > 5 && e[:5] == "PATH=" {
				cmd.Env[i] = "PATH=" + tools + ":" + e[5:]
			}
		}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", action, out)
		made, err := render.Artifacts(a.OutputArtifacts, p, render.Options{})
		require.NoError(t, err)
		for name, artifact := range made {
			p.ArtifactsIn[name] = render.Artifact(artifact)
		}
	}
	names := func() (all []string) {
		s, err := location.Open(t.Context(), profile)
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.List(context.Background(), "", func(o location.Object) error { all = append(all, o.Name); return nil }))
		return all
	}
	do("backup")
	require.Equal(t, []string{"mongodb-replicaset-backups/mongo/2026-11-29T10-00-00/rs_backup.gz"}, names())
	require.NoError(t, os.WriteFile(database, nil, 0o600))
	do("restore")
	got, err := os.ReadFile(database)
	require.NoError(t, err)
	require.Equal(t, content, got)
	said, err := os.ReadFile(filepath.Join(kept, "dump.args"))
	require.NoError(t, err)
	require.Equal(t, "--oplog --gzip --archive --host mongo-0.mongo-headless.shop.svc.cluster.local -u root -p secret\n", string(said))
	do("delete")
	require.Empty(t, names())
}
