package activities

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/testsuite"

	"thaw/blueprints/library"
	"thaw/blueprints/plan"
	"thaw/blueprints/retention"
	"thaw/internal/keyfiles"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/repository"
	"thaw/internal/teststore"
)

// vault is an engine with a location profile, s3.
type vault struct {
	*Engine
	t     *testing.T
	store location.Store
}

func newVault(t *testing.T, more map[string]string, o teststore.S3Options) *vault {
	e := newEngine(t)
	e.cfg.Key = func() (string, error) { return "AGE-SECRET-KEY-1TEST", nil }
	e.cfg.Secrets.Secrets = t.TempDir()
	server := teststore.StartS3(t, o)
	dir := server.Folder(filepath.Join(e.cfg.Secrets.Secrets, "s3"), "")
	for k, v := range more {
		require.NoError(t, os.WriteFile(filepath.Join(dir, k), []byte(v), 0o600))
	}
	keys, err := keyfiles.Read(dir)
	require.NoError(t, err)
	p, err := location.FromKeys(keys)
	require.NoError(t, err)
	s, err := location.Open(t.Context(), p)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return &vault{e, t, s}
}

var nightly = time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC)

// point is a restore point of some nights ago, with the blueprint's text.
func (v *vault) point(nights int, change func(*plan.RestorePoint)) plan.RestorePoint {
	text, err := library.Load("sqlite")
	require.NoError(v.t, err)
	id := fmt.Sprintf("shop-%02d", nights)
	rp := plan.RestorePoint{
		APIVersion: plan.RestorePointVersion, ID: id, Directory: filepath.Join(v.cfg.Location, id), Blueprint: "sqlite", BlueprintText: string(text),
		Target: plan.Target{Kind: "sqlite", Name: "/data/shop.db", TaskQueue: "host7"}, Consistent: true, CompletedAt: nightly.AddDate(0, 0, -nights),
		Artifacts: map[string]plan.Artifact{"database": {KeyValue: map[string]string{"archive": filepath.Join(v.cfg.Location, id, "a")}}},
		Options:   plan.Values{"path": "x"},
	}
	if change != nil {
		change(&rp)
	}
	require.NoError(v.t, os.MkdirAll(rp.Directory, 0o700))
	require.NoError(v.t, os.WriteFile(filepath.Join(rp.Directory, "a"), []byte(id), 0o600))
	return rp
}

func (v *vault) publish(nights int, change func(*plan.RestorePoint)) plan.RestorePoint {
	rp := v.point(nights, change)
	key, err := v.key()
	require.NoError(v.t, err)
	require.NoError(v.t, points.Publish(v.t.Context(), v.store, rp, key, func(string) {}))
	return rp
}

// run executes an activity, as Temporal does.
func run[T any](v *vault, f, in any) (out T, err error) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(20 * time.Second)
	v.Register(env)
	val, err := env.ExecuteActivity(f, in)
	if err == nil && val.HasValue() {
		err = val.Get(&out)
	}
	return out, err
}

func (v *vault) plan(in plan.RetireInput) *plan.RetirePlan {
	p, err := run[plan.RetirePlan](v, v.PlanRetire, in)
	require.NoError(v.t, err)
	return &p
}

func (v *vault) mark(in plan.RetireInput, p *plan.RetirePlan) {
	_, err := run[any](v, v.MarkRetiring, plan.RetireMarks{RetireInput: in, Mark: p.Mark, Undo: p.Report.Undone})
	require.NoError(v.t, err)
}

func retiring(at time.Time, keep int) plan.RetireInput {
	return plan.RetireInput{Time: at, Request: plan.RetireRequest{Profile: &plan.Reference{Name: "s3"}, Keep: retention.Keep{Daily: keep}, RequestedBy: "ann"}, Run: plan.Run{ID: "retire"}}
}

func ids(list []plan.Retired) string {
	var all []string
	for _, r := range list {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

func TestRetentionMarksAndDeletesInAnotherRun(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	for n := range 4 {
		v.publish(n, nil)
	}
	v.publish(9, func(rp *plan.RestorePoint) { rp.Target.Name = "/data/other.db" }) // counted by itself
	first := retiring(nightly, 2)
	p := v.plan(first)
	require.Equal(t, "shop-09 shop-01 shop-00", ids(p.Report.Kept))
	require.Equal(t, []string{"daily 2026-11-25", "the newest", "the newest consistent one"}, p.Report.Kept[2].Why)
	require.Equal(t, "shop-03 shop-02", ids(p.Report.Marked))
	require.Equal(t, nightly.Add(72*time.Hour), p.Report.Marked[0].Until)
	require.Empty(t, p.Due)
	for range 2 { // an attempt may be repeated
		v.mark(first, p)
	}

	p = v.plan(retiring(nightly.Add(71*time.Hour), 2))
	require.Equal(t, "shop-03 shop-02", ids(p.Report.Waiting), "the window is not over")
	require.Empty(t, p.Mark)

	require.NoError(t, points.Keep(t.Context(), v.store, "shop-02", points.Mark{At: nightly, By: "ann"}), "a person steps in")
	last := retiring(nightly.Add(73*time.Hour), 2)
	p = v.plan(last)
	require.Equal(t, "shop-03", ids(p.Due))
	require.Equal(t, "shop-09 shop-02 shop-01 shop-00", ids(p.Report.Kept))

	wider := v.plan(retiring(nightly.Add(73*time.Hour), 4))
	require.Equal(t, "shop-03", ids(wider.Report.Undone), "the rule keeps it again")
	require.Empty(t, wider.Due)

	last.Request.Target = "sqlite:/data/other.db@host7"
	require.Equal(t, "shop-09", ids(v.plan(last).Report.Kept), "nothing of another target")

	none := plan.Duration(0)
	at := retiring(nightly, 1)
	at.Request.UndoWindow = &none
	p = v.plan(at)
	require.Equal(t, "shop-01", ids(p.Mark))
	require.Empty(t, p.Report.Marked)
	require.Equal(t, "shop-01", ids(p.Due), "without a window, at once")

	at.Request.Keep = retention.Keep{}
	_, err := run[plan.RetirePlan](v, v.PlanRetire, at)
	require.ErrorContains(t, err, "keep says nothing")
}

func TestWhatIsProvenIsKept(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	for n := range 3 {
		v.publish(n, func(rp *plan.RestorePoint) { rp.Consistent = n == 1 })
	}
	require.NoError(t, points.Prove(t.Context(), v.store, "shop-02", points.Mark{At: nightly}))
	p := v.plan(retiring(nightly, 1))
	require.Equal(t, "shop-02 shop-01 shop-00", ids(p.Report.Kept))
	require.Equal(t, []string{"the newest proven one"}, p.Report.Kept[0].Why)
	require.Equal(t, []string{"the newest consistent one"}, p.Report.Kept[1].Why)
}

// due plans the deletion of one that is marked, and whose window is over.
func (v *vault) due(id string) (plan.Deletion, error) {
	require.NoError(v.t, points.Retire(v.t.Context(), v.store, id, points.Mark{At: nightly, Until: nightly}))
	return run[plan.Deletion](v, v.PlanDeletion, plan.DeletionInput{RetireInput: retiring(nightly.Add(time.Second), 1), Point: plan.Retired{ID: id}})
}

func TestHowARestorePointIsDeleted(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	edit := func(old, new string) func(*plan.RestorePoint) {
		return func(rp *plan.RestorePoint) { rp.BlueprintText = strings.Replace(rp.BlueprintText, old, new, 1) }
	}
	for name, c := range map[string]struct {
		nights  int
		change  func(*plan.RestorePoint)
		problem string
	}{
		"by its blueprint's action":    {nights: 1},
		"an application":               {2, func(rp *plan.RestorePoint) { rp.Application = &plan.Application{Namespace: "shop"} }, ""},
		"without such an action":       {3, edit("\n  delete:", "\n  remove:"), "no delete action: delete it by hand, then: thaw restorepoint forget shop-03"},
		"an action that asks":          {4, edit("description: Deletes the backup's data.", "approval: {message: sure}"), "asks for an approval"},
		"a blueprint that is not read": {5, func(rp *plan.RestorePoint) { rp.BlueprintText = "a: [" }, "not read by this release"},
		"one that is but its record": {6, func(rp *plan.RestorePoint) {
			rp.BlueprintText = strings.Replace(rp.BlueprintText, "\n  delete:", "\n  remove:", 1)
			rp.Artifacts = nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			rp := v.publish(c.nights, c.change)
			d, err := v.due(rp.ID)
			require.NoError(t, err)
			switch {
			case c.problem != "":
				require.Contains(t, d.Problem, c.problem)
				require.Nil(t, d.Request)
			case rp.Artifacts == nil:
				require.Equal(t, &plan.RestorePointRef{ID: rp.ID, Directory: rp.Directory, Profile: &plan.Reference{Name: "s3"}}, d.Record)
			default:
				require.Empty(t, d.Problem)
				want := plan.Request{
					Blueprint: "sqlite", BlueprintText: rp.BlueprintText, Action: "delete", From: rp.ID, Target: rp.Target, Options: rp.Options,
					Profile: &plan.Reference{Name: "s3"}, NoApproval: true, RequestedBy: "ann",
				}
				if rp.Application != nil {
					want.Blueprint, want.BlueprintText = "application", ""
				}
				require.Equal(t, want, *d.Request)
			}
		})
	}
}

func TestWhatSomebodyDecidedSinceThePlanHolds(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	v.publish(1, nil)
	in := plan.DeletionInput{RetireInput: retiring(nightly.Add(time.Second), 1), Point: plan.Retired{ID: "shop-01"}}
	d, err := run[plan.Deletion](v, v.PlanDeletion, in)
	require.NoError(t, err)
	require.Contains(t, d.Kept, "mark was taken away")
	require.NoError(t, points.Keep(t.Context(), v.store, "shop-01", points.Mark{At: nightly}))
	d, err = v.due("shop-01")
	require.NoError(t, err)
	require.Contains(t, d.Kept, "kept by hand")
}

// What an attacker writes is not what a worker deletes.
func TestARecordThatWasChangedIsNotDeletedByItsWords(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	v.publish(1, nil)
	rp := v.publish(2, nil)
	put := func(name, text string) {
		_, err := v.store.Put(t.Context(), name, strings.NewReader(text), location.PutOptions{})
		require.NoError(t, err)
	}
	put("restorepoints/shop-01/restorepoint.json", `{"apiVersion":"`+plan.RestorePointVersion+`","id":"shop-01"}`)
	d, err := v.due("shop-01")
	require.NoError(t, err)
	require.Contains(t, d.Problem, "restorepoints/shop-01/restorepoint.json does not fit its seal")
	require.NoError(t, v.store.List(t.Context(), "restorepoints-index/", func(o location.Object) error {
		if strings.Contains(o.Name, rp.ID) { // an index that makes it old
			put(strings.Replace(o.Name, "/2026", "/2017", 1), "")
			return v.store.Delete(t.Context(), o.Name)
		}
		return nil
	}))
	d, err = v.due("shop-02")
	require.NoError(t, err)
	require.Contains(t, d.Problem, "says otherwise than its record")
}

// Entries of restore points that there are not push none out.
func TestEntriesThatNoWorkerWroteAreNotCounted(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	for n := range 3 {
		v.publish(n, nil)
	}
	var names []string
	require.NoError(t, v.store.List(t.Context(), "restorepoints-index/", func(o location.Object) error {
		names = append(names, o.Name)
		return nil
	}))
	for _, n := range names {
		_, err := v.store.Put(t.Context(), strings.ReplaceAll(strings.Replace(n, "/2026", "/2027", 1), "shop-", "fake-"), strings.NewReader(""), location.PutOptions{})
		require.NoError(t, err)
	}
	p := v.plan(retiring(nightly, 2))
	require.Equal(t, "shop-01 shop-00", ids(p.Report.Kept))
	require.Equal(t, "fake-02 fake-01 fake-00", ids(p.Report.Failed))
	require.Contains(t, p.Report.Failed[0].Why[0], "not counted")
}

func TestALockIsRespectedUntilItsEnd(t *testing.T) {
	v := newVault(t, map[string]string{"lockMode": "governance", "lockFor": "48h"}, teststore.S3Options{Locks: true})
	v.publish(1, nil)
	require.NoError(t, points.Retire(t.Context(), v.store, "shop-01", points.Mark{At: nightly, Until: nightly}))
	in := plan.DeletionInput{RetireInput: retiring(time.Now(), 1), Point: plan.Retired{ID: "shop-01"}}
	d, err := run[plan.Deletion](v, v.PlanDeletion, in)
	require.NoError(t, err)
	require.Nil(t, d.Request)
	require.WithinDuration(t, time.Now().Add(48*time.Hour), d.Locked, time.Minute)

	_, err = run[any](v, v.Unpublish, plan.RestorePointRef{ID: "shop-01", Profile: in.Request.Profile})
	require.ErrorContains(t, err, plan.Locked, "a workflow knows it by these words")
	require.Equal(t, plan.Locked, location.ErrLocked.Error())
	list, err := points.States(t.Context(), v.store, nil)
	require.NoError(t, err)
	require.Len(t, list, 1, "it is as whole as it was")

	in.Time = time.Now().Add(49 * time.Hour)
	d, err = run[plan.Deletion](v, v.PlanDeletion, in)
	require.NoError(t, err)
	require.NotNil(t, d.Request)
}

// A directory has those that are in it alone; its marks are below it.
func TestADirectoryIsRetiredToo(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	for n := range 3 {
		_, err := v.writeRestorePoint(v.point(n, func(rp *plan.RestorePoint) {
			if n == 0 {
				rp.Profile = &plan.Reference{Name: "s3"} // it is in a location: its profile's to retire
			}
		}))
		require.NoError(t, err)
	}
	in := retiring(nightly, 1)
	in.Request.Profile = nil
	p := v.plan(in)
	require.Equal(t, "shop-01", ids(p.Report.Kept))
	require.Equal(t, "shop-02", ids(p.Mark))
	v.mark(in, p)
	require.DirExists(t, filepath.Join(v.cfg.Location, "restorepoints-retiring", "shop-02"))
	in.Time = nightly.Add(73 * time.Hour)
	require.Equal(t, "shop-02", ids(v.plan(in).Due))
	d, err := run[plan.Deletion](v, v.PlanDeletion, plan.DeletionInput{RetireInput: in, Point: plan.Retired{ID: "shop-02"}})
	require.NoError(t, err)
	require.Nil(t, d.Request.Profile)
	require.Equal(t, "shop-02", d.Request.From)
	require.Equal(t, v.cfg.Location, d.Request.Location)
	_, err = run[any](v, v.Forget, plan.RestorePointRef{ID: "shop-02", Directory: filepath.Join(v.cfg.Location, "shop-02")})
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(v.cfg.Location, "restorepoints-retiring", "shop-02"), "a mark goes with its restore point")
}

// What is to be deleted is not fetched first.
func TestADeletionFetchesRecordsAlone(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	rp := v.point(1, nil)
	member := filepath.Join(rp.Directory, "members", "db", plan.RestorePointFile)
	require.NoError(t, os.MkdirAll(filepath.Dir(member), 0o700))
	require.NoError(t, os.WriteFile(member, []byte("{}"), 0o600))
	v.publish(1, nil)
	require.NoError(t, os.RemoveAll(rp.Directory))
	in := plan.FetchInput{From: rp.ID, Profile: plan.Reference{Name: "s3"}, Records: true}
	_, err := run[any](v, v.Fetch, in)
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(rp.Directory, "a"))
	require.FileExists(t, member)
	require.FileExists(t, filepath.Join(rp.Directory, plan.RestorePointFile))

	in.Records = false
	_, err = run[any](v, v.Fetch, in)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(rp.Directory, "a"), "what restores it afterwards has all of it")
	here, err := v.readRestorePoint(rp.ID, v.cfg.Location)
	require.NoError(t, err)
	require.Empty(t, here.Files)
}

func TestRepositoriesOfALocationAreMaintained(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	src := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(src, "f"), []byte("data"), 0o600))
	for path, passphrase := range map[string]string{"volumes/shop": "AGE-SECRET-KEY-1TEST", "db": "another"} {
		r, err := repository.Open(t.Context(), v.store, repository.Options{Prefix: path, Passphrase: passphrase, Create: true})
		require.NoError(t, err)
		_, err = r.Save(t.Context(), src, repository.SaveOptions{Source: "/f", Tag: "t"})
		require.NoError(t, err)
		require.NoError(t, r.Close(context.Background()))
	}
	all, err := run[[]plan.Maintained](v, v.Maintain, retiring(nightly, 1))
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "db", all[0].Path)
	require.Contains(t, all[0].Skipped, "another passphrase")
	require.Equal(t, plan.Maintained{Path: "volumes/shop"}, all[1])
}

func TestOneRunDoesNotDoAllAtOnce(t *testing.T) {
	var list []points.State
	for n := range mostMarked + 10 {
		list = append(list, points.State{Entry: points.Entry{ID: fmt.Sprintf("p-%05d", n), CompletedAt: nightly.Add(time.Duration(n) * time.Minute)}})
	}
	in := retiring(nightly.AddDate(0, 1, 0), 1)
	p, err := decide(list, in)
	require.NoError(t, err)
	require.Len(t, p.Mark, mostMarked)
	require.Equal(t, "p-00000", p.Mark[0].ID, "the oldest first")
	require.Equal(t, 9, p.Report.Postponed)
	for i := range list {
		list[i].Retiring = nightly
	}
	p, err = decide(list, in)
	require.NoError(t, err)
	require.Len(t, p.Due, mostDeleted)
	require.Equal(t, mostMarked+9-mostDeleted, p.Report.Postponed)
}
