package location_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// everyVerb calls all of a store.
func everyVerb(t *testing.T, s location.Store) map[string]error {
	all := map[string]error{}
	_, all["put"] = s.Put(t.Context(), "clock/x", stream(10), location.PutOptions{})
	_, all["put in parts"] = s.Put(t.Context(), "clock/y", stream(20<<20), location.PutOptions{})
	r, err := s.Get(t.Context(), "clock/x", 0, -1)
	if all["get"] = err; err == nil {
		require.Equal(t, sum(t, stream(10)), sum(t, r))
		require.NoError(t, r.Close())
	}
	all["list"] = s.List(t.Context(), "", func(location.Object) error { return nil })
	all["delete"] = s.Delete(t.Context(), "clock/x")
	return all
}

func TestAClockThatIsWrong(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	for _, by := range []time.Duration{time.Hour, -time.Hour, 20 * time.Hour} {
		t.Run("of "+by.String()+" against S3, which tells its own: the client corrects it", func(t *testing.T) {
			p := server.Profile
			p.Location.Endpoint = server.Behind(by, true)
			for verb, err := range everyVerb(t, open(t, p)) {
				require.NoError(t, err, verb)
			}
		})
	}
	t.Run("against S3, of which something else tells the time", func(t *testing.T) {
		p := server.Profile
		p.Location.Endpoint = server.Behind(time.Hour, false)
		for verb, err := range everyVerb(t, open(t, p)) {
			require.ErrorContains(t, err, "set the clock", verb)
			require.Equal(t, fault.User, fault.Of(err), verb)
		}
	})
	t.Run("against Google's", func(t *testing.T) {
		p := teststore.GCS(t)
		p.Credential.KeyPair = &templates.KeyPair{ID: "thaw", Secret: teststore.SkewedServiceAccount(t, -time.Hour)}
		for verb, err := range everyVerb(t, open(t, p)) {
			require.ErrorContains(t, err, "set the clock", verb)
			require.Equal(t, fault.User, fault.Of(err), verb)
		}
	})
}
