package orphans

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/repository"
	"thaw/internal/teststore"
)

const passphrase = "AGE-SECRET-KEY-1TEST"

type place struct {
	location.Store
	t *testing.T
}

func newPlace(t *testing.T) place {
	s, err := location.Open(t.Context(), teststore.S3(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return place{s, t}
}

func (p place) put(names ...string) {
	for _, n := range names {
		_, err := p.Put(p.t.Context(), n, strings.NewReader("data"), location.PutOptions{})
		require.NoError(p.t, err)
	}
}

func (p place) publish(id string, artifacts map[string]string, change func(*plan.RestorePoint)) {
	key, err := points.NewKey(passphrase)
	require.NoError(p.t, err)
	rp := plan.RestorePoint{
		APIVersion: plan.RestorePointVersion, ID: id, Directory: p.t.TempDir(), Blueprint: "x", BlueprintText: "dumps/in-an-example.gz",
		Artifacts: map[string]plan.Artifact{"a": {KeyValue: artifacts}}, CompletedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if change != nil {
		change(&rp)
	}
	require.NoError(p.t, os.WriteFile(filepath.Join(rp.Directory, "file"), []byte("data"), 0o600))
	require.NoError(p.t, points.Publish(p.t.Context(), p, rp, key, func(string) {}))
}

// save makes a snapshot in a repository, and returns its id.
func (p place) save(at, key, tag string) string {
	src := p.t.TempDir()
	require.NoError(p.t, os.WriteFile(filepath.Join(src, "f"), []byte("data"), 0o600))
	r, err := repository.Open(p.t.Context(), p, repository.Options{Prefix: at, Passphrase: key, Create: true})
	require.NoError(p.t, err)
	sn, err := r.Save(p.t.Context(), src, repository.SaveOptions{Source: "/f", Tag: tag})
	require.NoError(p.t, err)
	require.NoError(p.t, r.Close(context.Background()))
	return sn.ID
}

func (p place) find(o Options) *Report {
	if o.Now.IsZero() {
		o.Now = time.Now().Add(48 * time.Hour) // all of it is old
	}
	r, err := Find(p.t.Context(), p, o)
	require.NoError(p.t, err)
	return r
}

// found are kinds and names.
func found(r *Report) (all []string) {
	for _, o := range r.Orphans {
		all = append(all, strings.TrimSpace(string(o.Kind)+" "+o.Name+" "+o.ID))
	}
	return all
}

func (p place) names() (all []string) {
	require.NoError(p.t, p.List(p.t.Context(), "", func(o location.Object) error { all = append(all, o.Name); return nil }))
	return all
}

func TestWhatEveryRecordNamesBelongs(t *testing.T) {
	p := newPlace(t)
	p.put("dumps/one.gz", "dumps/deep/two/part-1", "dumps/deep/two/part-2", "s3/three", "wal/000001", "json/four", "prefixed/five")
	p.publish("a", map[string]string{
		"path": "dumps/one.gz", "dir": "/dumps/deep/two/", "url": "s3://backups/s3/three", "wal": "copied wal/000001, and more", "json": `{"pod":{"at":"json/four"}}`,
		"whole": "backups/clusters/one/prefixed/five",
	}, nil)
	require.Empty(t, found(p.find(Options{Bucket: "backups", Prefix: "clusters/one"})))
}

// What a member of an application put elsewhere is named by its own record.
func TestWhatAPartsRecordNamesBelongs(t *testing.T) {
	p := newPlace(t)
	p.put("dumps/one.gz", "stray")
	part := func(rp *plan.RestorePoint) {
		dir := filepath.Join(rp.Directory, "members", "db")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, plan.RestorePointFile), []byte(`{"apiVersion":"`+plan.RestorePointVersion+`","id":"db","artifacts":{"a":{"keyValue":{"at":"dumps/one.gz"}}}}`), 0o600))
	}
	p.publish("a", nil, part)
	require.Equal(t, []string{"data stray"}, found(p.find(Options{Passphrase: passphrase})))
	p.put("restorepoints/a/members/db/restorepoint.json")
	r := p.find(Options{})
	require.Empty(t, r.Orphans, "what it named is not known")
	require.Contains(t, r.Unknown[0], "members/db/restorepoint.json is damaged")
	require.NoError(t, p.Delete(t.Context(), "restorepoints/a/members/db/restorepoint.json"))
	require.Empty(t, p.find(Options{}).Orphans)
}

func TestWhatNoRecordNamesIsFound(t *testing.T) {
	p := newPlace(t)
	p.publish("a", map[string]string{"path": "dumps/one.gz"}, nil)
	p.put("dumps/one.gz", "dumps/one.gz.tmp", "dumps/in-an-example.gz", "stray", "restorepoints/b/file", "restorepoints/b/restorepoint.json.tmp", "restorepoints-kept/x")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	require.NoError(t, points.Prove(t.Context(), p, "a", points.Mark{At: at}))
	require.NoError(t, points.Keep(t.Context(), p, "gone", points.Mark{At: at}))
	p.publish("c", nil, nil)
	require.NoError(t, p.Delete(t.Context(), "restorepoints/c/restorepoint.json"))
	entry := ""
	for _, n := range p.names() {
		if strings.HasPrefix(n, "restorepoints-index/") && strings.Contains(n, "/c/") {
			entry = n
		}
	}
	r := p.find(Options{})
	require.Equal(t, []string{
		"data dumps/", "half restorepoints/b b", "entry " + entry + " c", "data restorepoints-kept/x", "mark restorepoints-kept/gone gone", "data stray",
	}, sortedAs(found(r), "data dumps/", "half", "entry", "data restorepoints-kept", "mark", "data stray"))
	require.Equal(t, 1, r.Points)
	for _, o := range r.Orphans {
		if o.Name == "dumps/" {
			require.Equal(t, 2, o.Objects)
			require.EqualValues(t, 8, o.Size)
		}
	}
	require.Empty(t, p.find(Options{Now: time.Now()}).Orphans, "it may be in the making")
	require.Positive(t, p.find(Options{Now: time.Now()}).Young)

	before := len(p.names())
	require.NoError(t, Remove(t.Context(), p, r.Orphans, "", func(string) {}))
	left := p.find(Options{})
	require.Equal(t, []string{"half restorepoints/c c"}, found(left), "whose entry was of no record; now it is no list's")
	require.Less(t, len(p.names()), before)
	require.NoError(t, Remove(t.Context(), p, left.Orphans, "", func(string) {}))
	require.Empty(t, p.find(Options{}).Orphans)
	key, err := points.NewKey(passphrase)
	require.NoError(t, err)
	list, err := points.Verify(t.Context(), p, []string{"a"}, key, "", nil, func(string) {})
	require.NoError(t, err)
	require.True(t, list[0].Whole)
	require.Contains(t, p.names(), "dumps/one.gz")
}

// sortedAs puts lines into the order of their beginnings.
func sortedAs(lines []string, begin ...string) (all []string) {
	for _, b := range begin {
		for _, l := range lines {
			if strings.HasPrefix(l, b) {
				all = append(all, l)
			}
		}
	}
	return all
}

// What one record names is not known: so of no data is said that nobody does.
func TestARecordThatCannotBeReadMakesNoOrphans(t *testing.T) {
	p := newPlace(t)
	p.publish("a", map[string]string{"path": "dumps/one.gz"}, nil)
	p.publish("b", map[string]string{"path": "dumps/two.gz"}, nil)
	p.put("dumps/one.gz", "dumps/two.gz", "stray")
	p.put("restorepoints/b/restorepoint.seal")
	require.Equal(t, []string{"data stray"}, found(p.find(Options{})))
	r := p.find(Options{Passphrase: passphrase})
	require.Empty(t, r.Orphans)
	require.Len(t, r.Unknown, 1)
	require.Contains(t, r.Unknown[0], "restorepoints/b/restorepoint.seal")
}

func TestSnapshotsThatNoRecordNamesAreFound(t *testing.T) {
	p := newPlace(t)
	named, tagged, stray := p.save("volumes/shop", passphrase, "t-1"), p.save("volumes/shop", passphrase, "t-2"), p.save("volumes/shop", passphrase, "t-3")
	p.save("db", "another", "t-4")
	p.publish("a", map[string]string{"info": `{"db-0":{"BackupID":"` + named + `"}}`}, func(rp *plan.RestorePoint) {
		rp.Application = &plan.Application{Volumes: []any{map[string]any{"tag": "t-2"}}}
	})
	r := p.find(Options{})
	require.Empty(t, r.Orphans, "a repository's blocks are its own")
	require.Equal(t, []string{"repository db is not looked into: that needs the worker's key", "repository volumes/shop is not looked into: that needs the worker's key"}, r.Unknown)
	r = p.find(Options{Passphrase: passphrase})
	require.Equal(t, []string{"snapshot volumes/shop " + stray}, found(r))
	require.Equal(t, []string{"repository db is not looked into: it opens with another passphrase"}, r.Unknown)
	require.NoError(t, Remove(t.Context(), p, r.Orphans, passphrase, func(string) {}))
	require.Empty(t, p.find(Options{Passphrase: passphrase}).Orphans)
	rep, err := repository.Open(t.Context(), p, repository.Options{Prefix: "volumes/shop", Passphrase: passphrase})
	require.NoError(t, err)
	defer func() { _ = rep.Close(context.Background()) }()
	list, err := rep.List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 2)
	require.ElementsMatch(t, []string{named, tagged}, []string{list[0].ID, list[1].ID})
}

func TestWhatALockHoldsDoesNotKeepTheOthers(t *testing.T) {
	profile := teststore.StartS3(t, teststore.S3Options{Locks: true}).Profile
	plain, err := location.Open(t.Context(), profile)
	require.NoError(t, err)
	defer plain.Close()
	profile.Location.LockMode, profile.Location.LockFor = "governance", "24h"
	s, err := location.Open(t.Context(), profile)
	require.NoError(t, err)
	defer s.Close()
	place{plain, t}.put("a/free", "z/free")
	place{s, t}.put("m/held")
	p := place{s, t}
	r := p.find(Options{})
	require.Len(t, r.Orphans, 3)
	err = Remove(t.Context(), s, r.Orphans, "", func(string) {})
	require.ErrorIs(t, err, location.ErrLocked)
	require.Equal(t, []string{"m/held"}, p.names())
}

func TestARestorePointThatIsListedByNowIsLeftAlone(t *testing.T) {
	p := newPlace(t)
	p.publish("a", nil, nil)
	require.NoError(t, Remove(t.Context(), p, []Orphan{{Kind: Half, Name: "restorepoints/a", ID: "a"}}, "", func(string) {}))
	_, err := points.Read(t.Context(), p, "a", nil)
	require.NoError(t, err)
}
