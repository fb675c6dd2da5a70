package location

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	smithymiddleware "github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// Kanister's Secret of AWS, and what its Profile's default region is.
const (
	awsSecretType    = "secrets.kanister.io/aws"
	awsDefaultRegion = "us-east-1"
	// nonce is the metadata by which a Put knows its own object again, where
	// the answer to an earlier try of it was lost.
	nonce = "thaw-put"
)

// s3Store keeps objects in a bucket of S3, or of what speaks like it. A client
// of S3 alone does not do: the parts of its uploads do not grow, so that a
// stream of unknown length ends at 80 GB.
type s3Store struct {
	client     *s3.Client
	bucket     string
	encryption types.ServerSideEncryption
	kmsKey     *string
	lock       lock
}

func openS3(ctx context.Context, p templates.Profile) (*s3Store, error) {
	l := p.Location
	id, err := awsIdentityOf(p)
	if err != nil {
		return nil, err
	}
	trust := p
	if id.key == "" {
		trust = withEnvironmentTrust(p)
	}
	transport, err := newTransport(trust)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: transport}
	endpoint := withScheme(l.Endpoint)
	region := l.Region
	if region == "" {
		region = awsDefaultRegion
	}
	retryer := func() aws.Retryer {
		return retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff, o.RateLimiter = 5, 5*time.Second, ratelimit.None
		})
	}
	conf := aws.Config{Region: region, HTTPClient: client, Retryer: retryer, Logger: logging.Nop{}}
	if id.key != "" {
		conf.Credentials = credentials.NewStaticCredentialsProvider(id.key, id.secret, id.token)
	} else {
		env, err := config.LoadDefaultConfig(ctx, config.WithRegion(region), config.WithLogger(logging.Nop{}))
		if err != nil {
			return nil, fault.New(fault.User, "the profile has no credential, and the environment's cannot be read%s", paren(err.Error()))
		}
		conf.Credentials = env.Credentials
	}
	if id.role != "" {
		base := conf
		assume := sts.NewFromConfig(base, func(o *sts.Options) {
			// Stores that speak like S3 have it at their own endpoint.
			if endpoint != "" && !strings.Contains(endpoint, ".amazonaws.com") {
				o.BaseEndpoint = &endpoint
			}
		})
		conf.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(assume, id.role, func(o *stscreds.AssumeRoleOptions) {
			o.RoleSessionName = "thaw"
		}))
	}
	options := func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint, o.UsePathStyle = &endpoint, true
		}
		o.DisableLogOutputChecksumValidationSkipped = true
	}
	s := &s3Store{client: s3.NewFromConfig(conf, options), bucket: l.Bucket, encryption: types.ServerSideEncryption(l.Encryption)}
	if l.KMSKey != "" {
		s.kmsKey, s.encryption = &l.KMSKey, types.ServerSideEncryptionAwsKms
	}
	if s.lock, err = lockOf(l); err != nil {
		return nil, err
	}
	if l.Region == "" {
		if found, err := s.region(ctx); err != nil {
			return nil, err
		} else if found != "" && found != region {
			conf.Region = found
			s.client = s3.NewFromConfig(conf, options)
		}
	}
	return s, nil
}

// region asks the store where the bucket is: it says so with a refusal too.
func (s *s3Store) region(ctx context.Context) (string, error) {
	out, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket})
	if err == nil {
		return aws.ToString(out.BucketRegion), nil
	}
	if res := (*smithyhttp.ResponseError)(nil); errors.As(err, &res) {
		return res.Response.Header.Get("X-Amz-Bucket-Region"), nil // the rest shows when the bucket is used
	}
	return "", err
}

type awsIdentity struct{ key, secret, token, role string }

func awsIdentityOf(p templates.Profile) (awsIdentity, error) {
	switch c := p.Credential; {
	case c.KeyPair != nil:
		return awsIdentity{key: c.KeyPair.ID, secret: c.KeyPair.Secret}, nil
	case c.Secret != nil:
		if c.Secret.Type != "" && c.Secret.Type != awsSecretType {
			return awsIdentity{}, fault.New(fault.User, "the credential is a Secret of type %s: use one of type %s", c.Secret.Type, awsSecretType)
		}
		at := func(k string) string { return strings.TrimSpace(string(c.Secret.Data[k])) }
		id := awsIdentity{at("aws_access_key_id"), at("aws_secret_access_key"), at("aws_session_token"), at("role")}
		if (id.key == "") != (id.secret == "") || id.key == "" && id.role == "" {
			return id, fault.New(fault.User, "the Secret of the credential needs aws_access_key_id and aws_secret_access_key, or role")
		}
		return id, nil
	}
	return awsIdentity{}, nil
}

func withScheme(endpoint string) string {
	if endpoint == "" || strings.Contains(endpoint, "://") {
		return strings.TrimSuffix(endpoint, "/")
	}
	return "https://" + strings.TrimSuffix(endpoint, "/")
}

func (s *s3Store) close() error {
	if c, ok := s.client.Options().HTTPClient.(*http.Client); ok {
		c.CloseIdleConnections()
	}
	return nil
}

func (s *s3Store) put(ctx context.Context, key string, r io.Reader, o PutOptions) (time.Time, error) {
	mine := rand.Text()
	var send func() (time.Time, error)
	if again, ok := r.(io.ReadSeeker); ok && o.Size <= oneShot {
		send = func() (time.Time, error) { return s.putWhole(ctx, key, again, o, mine) }
	} else {
		first, whole, err := readFirst(r, o.Size)
		if err != nil {
			return time.Time{}, err
		}
		send = func() (time.Time, error) { return s.putParts(ctx, key, first, r, o, mine) }
		if whole {
			send = func() (time.Time, error) { return s.putWhole(ctx, key, bytes.NewReader(first), o, mine) }
		}
	}
	at, err := send()
	// A try whose answer was lost makes the next one fail on its own object.
	if is := s.explain(err).is; err != nil && (is == ErrExists || isCode(err, "NoSuchUpload")) { //nolint:errorlint // a field, not a chain
		if out, herr := s.head(ctx, key); herr == nil && out.Metadata[nonce] == mine {
			return aws.ToTime(out.LastModified), nil
		}
	}
	return at, err
}

// putWhole puts an object in one request, with its checksum in the header: what
// speaks like S3 often does not know the SDK's trailers.
func (s *s3Store) putWhole(ctx context.Context, key string, r io.ReadSeeker, o PutOptions, mine string) (time.Time, error) {
	sum := crc32.NewIEEE()
	// Not by the reader's own WriteTo, which would pass by its end.
	n, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, make([]byte, 64<<10))
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	if err != nil {
		return time.Time{}, err
	}
	in := &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: r, ContentLength: &n,
		ChecksumCRC32: encoded(sum.Sum32()), ServerSideEncryption: s.encryption, SSEKMSKeyId: s.kmsKey,
	}
	if o.New {
		in.IfNoneMatch, in.Metadata = aws.String("*"), map[string]string{nonce: mine}
	}
	if until, ok := s.lock.until(time.Now()); ok && !o.Unlocked {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockMode(s.lock.mode), &until
	}
	out, err := s.client.PutObject(ctx, in)
	if err != nil {
		return time.Time{}, err
	}
	return serverTime(out.ResultMetadata), nil
}

func (s *s3Store) putParts(ctx context.Context, key string, first []byte, r io.Reader, o PutOptions, mine string) (at time.Time, err error) {
	in := &s3.CreateMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32, Metadata: map[string]string{nonce: mine},
		ServerSideEncryption: s.encryption, SSEKMSKeyId: s.kmsKey,
	}
	if until, ok := s.lock.until(time.Now()); ok && !o.Unlocked {
		in.ObjectLockMode, in.ObjectLockRetainUntilDate = types.ObjectLockMode(s.lock.mode), &until
	}
	upload, err := s.client.CreateMultipartUpload(ctx, in)
	if err != nil {
		return at, err
	}
	defer func() {
		if err != nil {
			s.abort(ctx, key, upload.UploadId)
		}
	}()
	var mu sync.Mutex
	var parts []types.CompletedPart
	err = sendParts(ctx, first, r, o.Size, func(ctx context.Context, number int, b []byte) error {
		sum := checksum(b)
		out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.bucket, Key: &key, UploadId: upload.UploadId, PartNumber: aws.Int32(int32(number)),
			Body: bytes.NewReader(b), ContentLength: aws.Int64(int64(len(b))), ChecksumCRC32: sum,
		})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(number)), ETag: out.ETag, ChecksumCRC32: sum})
		return nil
	})
	if err != nil {
		return at, err
	}
	slices.SortFunc(parts, func(a, b types.CompletedPart) int { return int(*a.PartNumber - *b.PartNumber) })
	complete := &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}
	if o.New {
		complete.IfNoneMatch = aws.String("*")
	}
	out, err := s.client.CompleteMultipartUpload(ctx, complete)
	if err != nil {
		return at, err
	}
	return serverTime(out.ResultMetadata), nil
}

// abort gives up an upload, though ctx may have ended. Where the network is
// gone the parts stay until the bucket's lifecycle rule removes them.
func (s *s3Store) abort(ctx context.Context, key string, upload *string) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer stop()
	_, _ = s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &s.bucket, Key: &key, UploadId: upload})
}

func (s *s3Store) get(ctx context.Context, key string, offset, length int64, version string) (stream, error) {
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: &key}
	if offset > 0 || length >= 0 {
		in.Range = aws.String(byteRange(offset, length))
	}
	if version != "" {
		in.IfMatch = &version
	}
	out, err := s.client.GetObject(ctx, in)
	if err != nil {
		return stream{}, err
	}
	return stream{out.Body, aws.ToString(out.ETag), aws.ToInt64(out.ContentLength)}, nil
}

func (s *s3Store) head(ctx context.Context, key string) (*s3.HeadObjectOutput, error) {
	return s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key})
}

func (s *s3Store) stat(ctx context.Context, key string) (Object, error) {
	out, err := s.head(ctx, key)
	if err != nil {
		return Object{}, s.whichMissing(ctx, err)
	}
	return Object{Name: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), LockedUntil: aws.ToTime(out.ObjectLockRetainUntilDate)}, nil
}

// whichMissing tells a missing object from a missing bucket: the answer to a
// HEAD has no text.
func (s *s3Store) whichMissing(ctx context.Context, err error) error {
	if s.explain(err).is != ErrNotFound { //nolint:errorlint // a field, not a chain
		return err
	}
	if _, berr := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket}); statusOf(berr) == http.StatusNotFound {
		return &types.NoSuchBucket{}
	}
	return err
}

func (s *s3Store) list(ctx context.Context, prefix string, each func(Object) error) error {
	pages := s3.NewListObjectsV2Paginator(s.client, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			if err := each(Object{Name: aws.ToString(o.Key), Size: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func checksum(b []byte) *string { return encoded(crc32.ChecksumIEEE(b)) }

func encoded(sum uint32) *string {
	return aws.String(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum)))
}

func serverTime(m smithymiddleware.Metadata) time.Time {
	if t, ok := awsmiddleware.GetServerTime(m); ok && !t.IsZero() {
		return t
	}
	return time.Now()
}

func statusOf(err error) int {
	if res := (*smithyhttp.ResponseError)(nil); errors.As(err, &res) {
		return res.HTTPStatusCode()
	}
	return 0
}

func isCode(err error, codes ...string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && slices.Contains(codes, api.ErrorCode())
}

func (s *s3Store) explain(err error) cause { return explainS3(err) }

func explainS3(err error) cause {
	if err == nil {
		return cause{}
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return unansweredS3(err)
	}
	code, status := api.ErrorCode(), statusOf(err)
	said := paren(code, api.ErrorMessage())
	// As S3 says it of late, of versions behind a marker too, where HEAD tells
	// nothing of a lock.
	if code == "AccessDenied" && strings.Contains(api.ErrorMessage(), "protected by object lock") {
		return locked(said)
	}
	switch code {
	case "NoSuchKey", "NoSuchVersion":
		return causeNotFound
	case "NoSuchBucket":
		return causeNoBucket
	case "NotFound":
		return causeNotFound
	case "PreconditionFailed":
		return causeExists
	case "ConditionalRequestConflict":
		return cause{fault.Transient, nil, "another is writing it at this moment" + said}
	case "InvalidRange":
		return causeRange
	case "RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired":
		return skewed(said)
	case "InvalidAccessKeyId", "XAdminUserNotFound", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "ExpiredTokenException", "AccessDenied", "AccessDeniedException",
		"Forbidden", "AllAccessDisabled", "AccountProblem", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidSecurity", "NotSignedUp":
		return refused(said)
	case "QuotaExceeded", "QuotaExceededException", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientCapacity", "StorageFull", "TooManyBuckets":
		return full(said)
	case "ObjectLocked", "InvalidRetentionPeriod", "ObjectUnderRetention":
		return locked(said)
	case "ObjectLockConfigurationNotFoundError", "InvalidBucketObjectLockConfiguration":
		return cause{fault.User, nil, "the bucket has no object lock: enable it there, or take lockMode out of the profile" + said}
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "MovedPermanently":
		return cause{fault.User, nil, "the bucket is in another region: correct the profile's region" + said}
	case "InvalidBucketName":
		return cause{fault.User, nil, "the bucket's name is none: correct the profile's bucket" + said}
	case "EntityTooLarge":
		return cause{fault.Permanent, nil, "the store takes no object as large" + said}
	case "NoSuchUpload":
		return cause{fault.Transient, nil, "the store dropped the upload while it ran (a lifecycle rule of the bucket may be too short)" + said}
	case "BadDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidDigest", "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Busy", "OperationAborted", "Throttling", "ThrottlingException", "TooManyRequests":
		return unavailable(said)
	}
	switch {
	case strings.HasPrefix(code, "KMS."):
		return cause{fault.User, nil, "the store could not use the key of its encryption: correct kmsKey, or allow its use" + said}
	case status == http.StatusInsufficientStorage:
		return full(said)
	case strings.Contains(strings.ReplaceAll(api.ErrorMessage(), " ", ""), "ObjectLock"):
		return cause{fault.User, nil, "the bucket has no object lock: enable it there, or take lockMode out of the profile" + said}
	case status == http.StatusNotFound:
		return causeNotFound
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return refused(said)
	case status == http.StatusTooManyRequests || status >= 500 || status == 0:
		return unavailable(said)
	}
	return cause{fault.Permanent, nil, "the store refused the request" + said}
}

// unansweredS3 says what an error means that is not the store's answer.
func unansweredS3(err error) cause {
	switch status := statusOf(err); {
	case status >= 500 || status == http.StatusTooManyRequests:
		return unavailable("")
	case status == http.StatusMovedPermanently:
		return cause{fault.User, nil, "the bucket is in another region: correct the profile's region"}
	}
	text := err.Error()
	for _, sign := range []string{"get credentials", "failed to refresh cached credentials", "no EC2 IMDS role found", "static credentials are empty"} {
		if strings.Contains(text, sign) {
			if c := common(err); c.kind == fault.User {
				return c
			}
			return cause{fault.User, nil, "the profile has no credential, and the environment has none that can be used" + paren(lastOf(err))}
		}
	}
	return common(err)
}

// lastOf is the innermost text of an error.
func lastOf(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err.Error()
	}
	return err.Error()
}
