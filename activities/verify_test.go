package activities

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/points"
	"thaw/internal/teststore"
)

func TestRestorePointsAreReadBackAndProven(t *testing.T) {
	v := newVault(t, nil, teststore.S3Options{})
	for nights := range 3 {
		v.publish(nights, nil)
	}
	other := v.publish(9, func(rp *plan.RestorePoint) { rp.Target.Name = "/data/other.db" })
	_, err := v.store.Put(t.Context(), "restorepoints/shop-01/a", strings.NewReader("torn"), location.PutOptions{})
	require.NoError(t, err)
	verify := func(req plan.VerifyRequest) (*plan.VerifyReport, error) {
		req.Profile = plan.Reference{Name: "s3"}
		out, err := run[plan.VerifyReport](v, v.Verify, plan.VerifyInput{Request: req, Time: nightly, Run: plan.Run{ID: "weekly"}})
		return &out, err
	}
	ids := func(list []plan.Verified) (all []string) {
		for _, one := range list {
			all = append(all, one.ID)
		}
		return all
	}
	proven := func() (all []string) {
		key, err := v.key()
		require.NoError(t, err)
		states, err := points.States(t.Context(), v.store, key)
		require.NoError(t, err)
		for _, s := range states {
			if !s.Proven.IsZero() {
				all = append(all, s.ID)
			}
		}
		return all
	}

	out, err := verify(plan.VerifyRequest{Last: 1, Sample: "5%"})
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"shop-00", other.ID}, ids(out.Verified), "the newest of each target")
	require.Empty(t, proven(), "a sample proves nothing")

	out, err = verify(plan.VerifyRequest{Target: v.point(0, nil).Target.Key()})
	require.NoError(t, err)
	require.Equal(t, []string{"shop-00", "shop-02"}, ids(out.Verified))
	require.Equal(t, []string{"shop-01"}, ids(out.Damaged))
	require.Contains(t, out.Damaged[0].Says, "a is damaged")
	require.ElementsMatch(t, []string{"shop-00", "shop-02"}, proven())

	for says, req := range map[string]plan.VerifyRequest{
		"want a percentage":    {Sample: "5"},
		"last -1":              {Last: -1},
		"nothing was verified": {Target: "sqlite:/nothing"},
	} {
		_, err := verify(req)
		require.ErrorContains(t, err, says)
	}
}
