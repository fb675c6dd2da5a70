package location_test

import (
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

// TestLocks is of S3 alone: the tests' other stores lock nothing.
func TestLocks(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{Locks: true})
	retained := func(name string) (string, time.Time) {
		out, err := server.S3Client().HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: aws.String(teststore.Bucket), Key: &name})
		require.NoError(t, err)
		return string(out.ObjectLockMode), aws.ToTime(out.ObjectLockRetainUntilDate)
	}
	for _, mode := range []string{"governance", "compliance"} {
		t.Run(mode, func(t *testing.T) {
			p := server.Profile
			p.Location.Prefix, p.Location.LockMode, p.Location.LockFor = mode, mode, "48h"
			s := open(t, p)
			for _, n := range []int64{10, 20 << 20} { // in one request, and in parts
				_, err := s.Put(t.Context(), "dump", stream(n), location.PutOptions{})
				require.NoError(t, err)
				m, until := retained(mode + "/dump")
				require.Equal(t, strings.ToUpper(mode), m)
				require.WithinDuration(t, time.Now().Add(48*time.Hour), until, time.Minute)
			}
			err := s.Delete(t.Context(), "dump")
			require.ErrorIs(t, err, location.ErrLocked)
			require.Equal(t, fault.Permanent, fault.Of(err))
			require.Equal(t, []string{"dump"}, names(t, s, ""))

			later := time.Now().Add(96 * time.Hour)
			require.NoError(t, s.Extend(t.Context(), "dump", later))
			_, until := retained(mode + "/dump")
			require.False(t, until.Before(later), "%s is before %s", until, later)
			require.NoError(t, s.Extend(t.Context(), "dump", time.Now().Add(time.Hour)))
			_, same := retained(mode + "/dump")
			require.Equal(t, until, same, "a lock is never shortened")
		})
	}
	t.Run("without a lock in the profile what is locked stays", func(t *testing.T) {
		p := server.Profile
		s := open(t, p)
		// The bucket has versions: this hides the object, and frees nothing.
		require.NoError(t, s.Delete(t.Context(), "compliance/dump"))
		p.Location.LockMode, p.Location.LockFor = "compliance", "48h"
		require.ErrorIs(t, open(t, p).Delete(t.Context(), "compliance/dump"), location.ErrLocked)
	})
	t.Run("a bucket without locks", func(t *testing.T) {
		p := teststore.S3(t)
		p.Location.LockMode, p.Location.LockFor = "governance", "48h"
		_, err := open(t, p).Put(t.Context(), "dump", stream(10), location.PutOptions{})
		require.ErrorContains(t, err, "no object lock")
		require.Equal(t, fault.User, fault.Of(err))
	})
}
