package repository

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/kopia/kopia/repo/maintenance"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// distant are the stores that a network is between.
var distant = []struct {
	name  string
	start func(t *testing.T) *teststore.Server
}{
	{"s3", func(t *testing.T) *teststore.Server { return teststore.StartS3(t, teststore.S3Options{}) }},
	{"gcs", func(t *testing.T) *teststore.Server { return teststore.StartGCS(t) }},
}

// shop is a repository under a test that breaks things, and what is in it.
type shop struct {
	profile templates.Profile
	prefix  string
	dir     string // what is saved
	first   string // id of the first snapshot
	other   string // id of one to delete
}

// again opens the repository as a new process does, whose calls wait so long
// for a store that is away.
func (s *shop) again(t *testing.T, patience time.Duration) *Repository {
	t.Helper()
	store, err := location.Open(t.Context(), s.profile)
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	r, err := Open(t.Context(), store, Options{Prefix: s.prefix, Passphrase: "secret", Create: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	r.safety, r.blobs.patience = maintenance.SafetyNone, patience
	return r
}

func (s *shop) save(t *testing.T, r *Repository, dir, tag string) (*Snapshot, error) {
	return r.Save(t.Context(), dir, SaveOptions{Source: "/" + filepath.Base(dir), Tag: tag})
}

// back holds of what is in the repository: it comes back byte for byte, and
// nothing that is not whole is in the list.
func (s *shop) back(t *testing.T, tags ...string) {
	t.Helper()
	r := s.again(t, time.Minute)
	list, err := r.List(t.Context())
	require.NoError(t, err)
	var got []string
	for _, l := range list {
		got = append(got, l.Tag)
	}
	require.Equal(t, tags, got)
	newest, err := r.Find(t.Context(), "", tags[len(tags)-1])
	require.NoError(t, err)
	target := t.TempDir()
	_, err = r.Restore(t.Context(), newest.ID, target, RestoreOptions{})
	require.NoError(t, err)
	require.Equal(t, treeOf(t, s.dir), treeOf(t, target))
}

// deed is something that is done to a repository, and may be cut off.
type deed struct {
	name string
	// cuts are after how many bytes it is cut off.
	cuts []int64
	do   func(t *testing.T, s *shop, r *Repository) error
	// tags that the repository has before and after.
	before, after []string
}

var deeds = []deed{
	{"the first save", []int64{3 << 10, 5 << 20}, func(t *testing.T, s *shop, r *Repository) error {
		_, err := s.save(t, r, s.dir, "1")
		return err
	}, nil, []string{"1"}},
	{"the second save", []int64{3 << 10, 500 << 10}, func(t *testing.T, s *shop, r *Repository) error {
		_, err := s.save(t, r, s.dir, "2")
		return err
	}, []string{"1"}, []string{"1", "2"}},
	{"a restore", []int64{3 << 10, 5 << 20}, func(t *testing.T, s *shop, r *Repository) error {
		target := t.TempDir()
		if _, err := r.Restore(t.Context(), s.first, target, RestoreOptions{}); err != nil {
			return err
		}
		require.Equal(t, treeOf(t, s.dir), treeOf(t, target))
		return nil
	}, []string{"1"}, []string{"1"}},
	{"a delete", []int64{500, 3 << 10}, func(t *testing.T, s *shop, r *Repository) error {
		return r.Delete(t.Context(), s.other)
	}, []string{"other", "1"}, []string{"1"}},
	{"a maintenance", []int64{2 << 10, 10 << 10}, func(t *testing.T, s *shop, r *Repository) error {
		if err := r.Delete(t.Context(), s.other); err != nil {
			return err
		}
		_, err := r.Maintain(t.Context())
		return err
	}, []string{"other", "1"}, []string{"1"}},
}

// made makes what a deed needs.
func (d *deed) made(t *testing.T, p templates.Profile, prefix string) *shop {
	s := &shop{profile: p, prefix: prefix, dir: files(t)}
	writeNoise(t, filepath.Join(s.dir, "base/1/most"), 9<<20, 5)
	r := s.again(t, time.Minute)
	for _, tag := range d.before {
		dir := s.dir
		if tag == "other" {
			dir = t.TempDir()
			writeNoise(t, filepath.Join(dir, "rel"), 3<<20, 6)
		}
		saved, err := s.save(t, r, dir, tag)
		require.NoError(t, err)
		if tag == "other" {
			s.other = saved.ID
		} else {
			s.first = saved.ID
		}
	}
	if d.name == "the second save" {
		writeNoise(t, filepath.Join(s.dir, "base/1/most"), 2<<20, 7)
	}
	return s
}

// goesOn is the deed with a network that is cut in the middle of it, until mend:
// the call that runs ends well.
func (d *deed) goesOn(t *testing.T, server *teststore.Server, s *shop, after int64, mend func()) {
	r := s.again(t, time.Minute)
	cuts := server.Line.Cuts()
	server.Line.CutAfter(after)
	done := make(chan error, 1)
	go func() { done <- d.do(t, s, r) }()
	require.Eventually(t, func() bool { return server.Line.Cuts() > cuts }, time.Minute, 10*time.Millisecond)
	mend()
	require.NoError(t, <-done, "after %d bytes", after)
	s.back(t, d.after...)
}

func TestACutInTheMiddle(t *testing.T) {
	for _, store := range distant {
		t.Run(store.name, func(t *testing.T) {
			for _, d := range deeds {
				t.Run(d.name, func(t *testing.T) {
					t.Parallel()
					server := store.start(t)
					for i, after := range d.cuts {
						s := d.made(t, server.Profile, fmt.Sprintf("cut/%d", i))
						r := s.again(t, time.Millisecond)
						cuts := server.Line.Cuts()
						server.Line.CutAfter(after)
						err := d.do(t, s, r)
						require.Error(t, err, "after %d bytes", after)
						require.Greater(t, server.Line.Cuts(), cuts)
						require.Equal(t, fault.Transient, fault.Of(err), "%v", err)
						require.ErrorContains(t, err, server.Profile.Location.Bucket)
						require.NotContains(t, err.Error(), teststore.Secret)
						server.Line.Mend()
						require.NoError(t, d.do(t, s, s.again(t, time.Minute)), "it is done again")
						s.back(t, d.after...)
					}
				})
				t.Run(d.name+" goes on", func(t *testing.T) {
					t.Parallel()
					server := store.start(t)
					for i, after := range d.cuts {
						s := d.made(t, server.Profile, fmt.Sprintf("goes-on/%d", i))
						d.goesOn(t, server, s, after, server.Line.Mend)
					}
				})
			}
		})
	}
}

// A store that is killed loses no object that it confirmed; what it was getting
// is sent again.
func TestAStoreThatIsKilledInTheMiddle(t *testing.T) {
	for _, store := range distant {
		t.Run(store.name, func(t *testing.T) {
			for _, d := range deeds {
				if d.name != "the first save" && d.name != "a restore" {
					continue
				}
				t.Run(d.name, func(t *testing.T) {
					t.Parallel()
					server := store.start(t)
					for i, after := range d.cuts {
						s := d.made(t, server.Profile, fmt.Sprintf("killed/%d", i))
						d.goesOn(t, server, s, after, func() {
							server.Kill()
							server.Line.Mend() // nobody is at its other end
							server.Start()
						})
					}
				})
			}
		})
	}
}

// A store that is full says so, with its name, and keeps what it has.
func TestAStoreThatIsFull(t *testing.T) {
	const space = 24 << 20
	for name, start := range map[string]func(t *testing.T) templates.Profile{
		"s3": func(t *testing.T) templates.Profile {
			return teststore.StartS3(t, teststore.S3Options{Dir: teststore.Small(t, space)}).Profile
		},
		"gcs": func(t *testing.T) templates.Profile { return teststore.StartGCS(t).OverQuota(space) },
		"directory": func(t *testing.T) templates.Profile {
			return templates.Profile{Location: templates.Location{Type: location.TypeDirectory, Bucket: teststore.Small(t, space)}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := (&deed{before: []string{"1"}}).made(t, start(t), "full")
			large := t.TempDir()
			writeNoise(t, filepath.Join(large, "rel"), 60<<20, 8)
			r := s.again(t, time.Second)
			_, err := s.save(t, r, large, "too much")
			require.ErrorContains(t, err, "the store is full")
			require.ErrorContains(t, err, r.blobs.store.String())
			require.Equal(t, fault.Permanent, fault.Of(err), "%v", err)
			s.back(t, "1")
		})
	}
}

func TestALocationThatCannotBeUsed(t *testing.T) {
	s3, gcs := teststore.S3(t), teststore.GCS(t)
	with := func(p templates.Profile, change func(p *templates.Profile)) templates.Profile {
		if k := p.Credential.KeyPair; k != nil {
			own := *k
			p.Credential.KeyPair = &own
		}
		change(&p)
		return p
	}
	missing := func(p *templates.Profile) { p.Location.Bucket = "nobodys-bucket" }
	for _, c := range []struct {
		name string
		p    templates.Profile
		says string
	}{
		{"s3 with a wrong secret", with(s3, func(p *templates.Profile) { p.Credential.KeyPair.Secret = "wrong-secret-0123" }), "the store refused the credential"},
		{"s3 with a wrong key", with(s3, func(p *templates.Profile) { p.Credential.KeyPair.ID = "nobody" }), "the store refused the credential"},
		{"gcs with another's key", with(gcs, func(p *templates.Profile) { p.Credential.KeyPair.Secret = teststore.WrongServiceAccount(t) }), "the store refused the credential"},
		{"s3 without its bucket", with(s3, missing), "the bucket does not exist"},
		{"gcs without its bucket", with(gcs, missing), "the bucket does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store, err := location.Open(t.Context(), c.p)
			require.NoError(t, err)
			defer func() { _ = store.Close() }()
			for _, create := range []bool{true, false} {
				_, err = Open(t.Context(), store, Options{Prefix: "shop/db", Passphrase: "secret", Create: create})
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, store.String())
				require.Equal(t, fault.User, fault.Of(err), "%v", err)
				require.NotErrorIs(t, err, ErrNone, "what cannot be looked at is not missing")
				require.NotContains(t, err.Error(), "wrong-secret-0123")
			}
		})
	}
	t.Run("a directory that is not there", func(t *testing.T) {
		p := templates.Profile{Location: templates.Location{Type: location.TypeDirectory, Bucket: filepath.Join(t.TempDir(), "gone")}}
		_, err := location.Open(t.Context(), p)
		require.ErrorContains(t, err, "does not exist")
		require.Equal(t, fault.User, fault.Of(err))
	})
}

// skewed is a store whose clock is an hour ahead.
type skewed struct{ location.Store }

func (s skewed) Stat(ctx context.Context, name string) (location.Object, error) {
	o, err := s.Store.Stat(ctx, name)
	o.Modified = o.Modified.Add(time.Hour)
	return o, err
}

// Maintenance decides by ages: it does nothing where two clocks do not agree.
func TestMaintenanceWithAWrongClock(t *testing.T) {
	plain, _ := store(t)
	r := opened(t, skewed{plain})
	_, err := r.Save(t.Context(), files(t), SaveOptions{Source: "/db", Tag: "1"})
	require.NoError(t, err)
	_, err = r.Maintain(t.Context())
	require.ErrorContains(t, err, "clock")
	require.ErrorContains(t, err, "NTP")
	require.Equal(t, fault.User, fault.Of(err), "%v", err)
}
