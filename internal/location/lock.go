package location

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// lock is what holds new objects: "" none, GOVERNANCE or COMPLIANCE.
type lock struct {
	mode string
	span time.Duration
}

func lockOf(l templates.Location) (lock, error) {
	if l.LockMode == "" {
		return lock{}, nil
	}
	span, err := time.ParseDuration(l.LockFor)
	if err != nil {
		return lock{}, fault.New(fault.User, "lockFor is no duration: write one such as 720h")
	}
	return lock{strings.ToUpper(l.LockMode), span}, nil
}

func (l lock) until(now time.Time) (time.Time, bool) {
	// Stores keep seconds; one more, so that it is not shorter than asked for.
	return now.Add(l.span + time.Second).UTC().Truncate(time.Second), l.mode != ""
}

// byteRange is the header of a range.
func byteRange(offset, length int64) string {
	r := "bytes=" + strconv.FormatInt(offset, 10) + "-"
	if length >= 0 {
		r += strconv.FormatInt(offset+length-1, 10)
	}
	return r
}

// delete removes the object. In a location that locks, the bucket has versions,
// and a delete would only put a marker before them: there each version goes.
func (s *s3Store) delete(ctx context.Context, key string) error {
	if s.lock.mode != "" {
		return s.deleteVersions(ctx, key)
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
	return s.whetherLocked(ctx, key, nil, err)
}

func (s *s3Store) deleteVersions(ctx context.Context, key string) error {
	var markers []*string
	pages := s3.NewListObjectVersionsPaginator(s.client, &s3.ListObjectVersionsInput{Bucket: &s.bucket, Prefix: &key})
	for more := true; more && pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, v := range page.Versions {
			if aws.ToString(v.Key) != key {
				more = false // those of longer names follow
				continue
			}
			_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key, VersionId: v.VersionId})
			if err != nil {
				return s.whetherLocked(ctx, key, v.VersionId, err)
			}
		}
		for _, m := range page.DeleteMarkers {
			if aws.ToString(m.Key) == key {
				markers = append(markers, m.VersionId)
			}
		}
	}
	// Last: without its marker a version that is still there would be back.
	for _, m := range markers {
		if _, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key, VersionId: m}); err != nil {
			return err
		}
	}
	return nil
}

// whetherLocked tells a refusal for a lock from one for a missing permission:
// S3 answers both alike.
func (s *s3Store) whetherLocked(ctx context.Context, key string, version *string, err error) error {
	if err == nil || statusOf(err) != http.StatusForbidden {
		return err
	}
	out, herr := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key, VersionId: version})
	if herr != nil {
		return err
	}
	if out.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn {
		return fault.New(fault.Permanent, "%w, by a legal hold: it can be deleted when that is taken off", ErrLocked)
	}
	if until := aws.ToTime(out.ObjectLockRetainUntilDate); until.After(time.Now()) {
		return fault.New(fault.Permanent, "%w until %s (%s): it can be deleted after that", ErrLocked, until.UTC().Format(time.RFC3339), strings.ToLower(string(out.ObjectLockMode)))
	}
	return err
}

func (s *s3Store) extend(ctx context.Context, key string, until time.Time) error {
	if s.lock.mode == "" {
		return nil
	}
	out, err := s.head(ctx, key)
	if err != nil {
		return s.whichMissing(ctx, err)
	}
	if !aws.ToTime(out.ObjectLockRetainUntilDate).Before(until) {
		return nil
	}
	mode := types.ObjectLockRetentionMode(s.lock.mode)
	if out.ObjectLockMode == types.ObjectLockModeCompliance {
		mode = types.ObjectLockRetentionModeCompliance // it cannot be taken back
	}
	to := until.Add(time.Second - time.Nanosecond).UTC().Truncate(time.Second)
	_, err = s.client.PutObjectRetention(ctx, &s3.PutObjectRetentionInput{
		Bucket: &s.bucket, Key: &key, VersionId: out.VersionId,
		Retention: &types.ObjectLockRetention{Mode: mode, RetainUntilDate: &to},
	})
	if err != nil {
		return fmt.Errorf("put its retention: %w", err)
	}
	return nil
}
