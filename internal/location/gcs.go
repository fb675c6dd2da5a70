package location

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/storage"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	htransport "google.golang.org/api/transport/http"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// gcsChunk is what an upload has in memory, and sends again after a break.
const gcsChunk = 8 * mib

// gcsStore keeps objects in Google Cloud Storage.
type gcsStore struct {
	client    *storage.Client
	transport *http.Transport
	bucket    *storage.BucketHandle
	kmsKey    string
	lock      lock
}

func openGCS(ctx context.Context, p templates.Profile) (*gcsStore, error) {
	base, err := newTransport(p)
	if err != nil {
		return nil, err
	}
	identity, err := gcsIdentity(p)
	if err != nil {
		return nil, err
	}
	transport, err := htransport.NewTransport(ctx, base, option.WithScopes(storage.ScopeReadWrite), identity)
	if err != nil {
		return nil, fault.New(fault.User, "the credential cannot be used%s", paren(lastOf(err)))
	}
	options := []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: transport})}
	if p.Location.Endpoint != "" {
		u, err := url.Parse(withScheme(p.Location.Endpoint))
		if err != nil {
			return nil, err
		}
		if u.Path == "" {
			u.Path = "/storage/v1/"
		}
		options = append(options, option.WithEndpoint(u.String()))
	}
	client, err := storage.NewClient(ctx, options...)
	if err != nil {
		return nil, err
	}
	// Every call of ours can be made twice; none is made for ever.
	client.SetRetry(storage.WithPolicy(storage.RetryAlways), storage.WithMaxAttempts(5), storage.WithBackoff(gax.Backoff{Initial: firstWait, Max: 5 * time.Second, Multiplier: 2}))
	s := &gcsStore{client: client, transport: base, bucket: client.Bucket(p.Location.Bucket), kmsKey: p.Location.KMSKey}
	s.lock, err = lockOf(p.Location)
	return s, err
}

// gcsIdentity is a service account's key, or the environment's identity. An
// emulator, which speaks plain HTTP, is sent neither.
func gcsIdentity(p templates.Profile) (option.ClientOption, error) {
	var key string
	switch c := p.Credential; {
	case c.KeyPair != nil:
		key = c.KeyPair.Secret
	case c.Secret != nil:
		if key = string(c.Secret.Data["service-account.json"]); key == "" {
			return nil, fault.New(fault.User, "the Secret of the credential needs service-account.json")
		}
	case strings.HasPrefix(p.Location.Endpoint, "http://"):
		return option.WithoutAuthentication(), nil
	default:
		return option.WithScopes(storage.ScopeReadWrite), nil
	}
	// A service account alone: other kinds name programs and files to read.
	var is struct {
		Type string `json:"type"`
	}
	if json.Unmarshal([]byte(key), &is) != nil || is.Type != "service_account" {
		return nil, fault.New(fault.User, "the credential's secret is not the JSON of a service account's key")
	}
	return option.WithAuthCredentialsJSON(option.ServiceAccount, []byte(key)), nil
}

func (s *gcsStore) close() error {
	s.transport.CloseIdleConnections()
	return s.client.Close()
}

func (s *gcsStore) put(ctx context.Context, key string, r io.Reader, o PutOptions) (time.Time, error) {
	sending, drop := context.WithCancel(ctx)
	defer drop()
	obj, mine := s.bucket.Object(key), rand.Text()
	to := obj
	if o.New {
		to = obj.If(storage.Conditions{DoesNotExist: true})
	}
	w := to.NewWriter(sending)
	w.ContentType, w.KMSKeyName = "application/octet-stream", s.kmsKey
	w.ChunkSize, w.ChunkRetryDeadline = gcsChunk, time.Minute
	if o.New {
		w.Metadata = map[string]string{nonce: mine}
	}
	if until, ok := s.lock.until(time.Now()); ok && !o.Unlocked {
		w.Retention = &storage.ObjectRetention{Mode: gcsMode(s.lock.mode), RetainUntil: until}
	}
	// Not by the reader's own WriteTo, and not past its first error.
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 1<<20))
	if err != nil {
		drop() // before Close, which would keep what came so far
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		return w.Attrs().Updated, nil
	}
	if o.New && s.explain(err).is == ErrExists { //nolint:errorlint // a field, not a chain
		if a, aerr := obj.Attrs(ctx); aerr == nil && a.Metadata[nonce] == mine {
			return a.Updated, nil // an earlier try's, whose answer was lost
		}
	}
	err = s.whichMissing(ctx, err)
	if s.explain(err).is == ErrNotFound { //nolint:errorlint // a field, not a chain
		// Nothing is read here: it is the upload that the store knows no more.
		err = fault.New(fault.Transient, "the store dropped the upload while it ran; it is tried again")
	}
	return time.Time{}, err
}

func gcsMode(mode string) string {
	if mode == "COMPLIANCE" {
		return "Locked"
	}
	return "Unlocked"
}

func (s *gcsStore) get(ctx context.Context, key string, offset, length int64, version string) (stream, error) {
	obj := s.bucket.Object(key).ReadCompressed(true)
	if version != "" {
		generation, err := strconv.ParseInt(version, 10, 64)
		if err != nil {
			return stream{}, err
		}
		obj = obj.Generation(generation)
	}
	r, err := obj.NewRangeReader(ctx, offset, length)
	if err != nil {
		return stream{}, s.whichMissing(ctx, err)
	}
	return stream{r, strconv.FormatInt(r.Attrs.Generation, 10), r.Remain()}, nil
}

func (s *gcsStore) stat(ctx context.Context, key string) (Object, error) {
	a, err := s.bucket.Object(key).Attrs(ctx)
	if err != nil {
		return Object{}, s.whichMissing(ctx, err)
	}
	o := Object{Name: key, Size: a.Size, Modified: a.Updated}
	if a.Retention != nil {
		o.LockedUntil = a.Retention.RetainUntil
	}
	return o, nil
}

func (s *gcsStore) delete(ctx context.Context, key string) error {
	return s.whichMissing(ctx, s.bucket.Object(key).Delete(ctx))
}

// whichMissing tells a missing object from a missing bucket: the answers for an
// object do not.
func (s *gcsStore) whichMissing(ctx context.Context, err error) error {
	if err == nil || s.explain(err).is != ErrNotFound { //nolint:errorlint // a field, not a chain
		return err
	}
	it := s.bucket.Objects(ctx, &storage.Query{Prefix: "-"})
	it.PageInfo().MaxSize = 1
	if _, lerr := it.Next(); lerr != nil && s.explain(lerr).is == ErrNotFound { //nolint:errorlint // see above
		return storage.ErrBucketNotExist
	} else if errors.Is(lerr, storage.ErrBucketNotExist) {
		return lerr
	}
	return err
}

func (s *gcsStore) list(ctx context.Context, prefix string, each func(Object) error) error {
	q := &storage.Query{Prefix: prefix}
	if err := q.SetAttrSelection([]string{"Name", "Size", "Updated"}); err != nil {
		return err
	}
	for it := s.bucket.Objects(ctx, q); ; {
		a, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(Object{Name: a.Name, Size: a.Size, Modified: a.Updated}); err != nil {
			return err
		}
	}
}

func (s *gcsStore) extend(ctx context.Context, key string, until time.Time) error {
	if s.lock.mode == "" {
		return nil
	}
	obj := s.bucket.Object(key)
	a, err := obj.Attrs(ctx)
	if err != nil {
		return err
	}
	mode := gcsMode(s.lock.mode)
	if a.Retention != nil {
		if !a.Retention.RetainUntil.Before(until) {
			return nil
		}
		if a.Retention.Mode == "Locked" {
			mode = "Locked" // it cannot be taken back
		}
	}
	_, err = obj.Update(ctx, storage.ObjectAttrsToUpdate{Retention: &storage.ObjectRetention{Mode: mode, RetainUntil: until.Add(time.Second - time.Nanosecond).Truncate(time.Second)}})
	return err
}

func (s *gcsStore) explain(err error) cause { return explainGCS(err) }

func explainGCS(err error) cause {
	var api *googleapi.Error
	if !errors.As(err, &api) {
		return unansweredGCS(err)
	}
	reason := ""
	if len(api.Errors) > 0 {
		reason = api.Errors[0].Reason
	}
	said := paren(reason, api.Message)
	switch reason {
	case "retentionPolicyNotMet", "objectUnderActiveHold":
		return locked(said)
	case "rateLimitExceeded", "userRateLimitExceeded", "backendError", "internalError":
		return unavailable(said)
	case "quotaExceeded", "storageQuotaExceeded":
		return full(said)
	}
	text := strings.ToLower(api.Message)
	switch {
	case api.Code == http.StatusNotFound && (strings.Contains(text, "bucket does not exist") || errors.Is(err, storage.ErrBucketNotExist)):
		return causeNoBucket
	case api.Code == http.StatusNotFound:
		return causeNotFound
	case api.Code == http.StatusPreconditionFailed:
		return causeExists
	case api.Code == http.StatusRequestedRangeNotSatisfiable:
		return causeRange
	case strings.Contains(text, "kms"):
		return cause{fault.User, nil, "the store could not use the key of its encryption: correct kmsKey, or allow its use" + said}
	case api.Code == http.StatusForbidden && strings.Contains(text, "retention"):
		return locked(said)
	case strings.Contains(text, "retention"):
		return cause{fault.User, nil, "the bucket takes no retention: enable object retention there, or take lockMode out of the profile" + said}
	case api.Code == http.StatusUnauthorized, api.Code == http.StatusForbidden:
		return refused(said)
	case api.Code == http.StatusInsufficientStorage:
		return full(said)
	case api.Code == http.StatusTooManyRequests, api.Code == http.StatusRequestTimeout, api.Code >= 500:
		return unavailable(said)
	}
	return cause{fault.Permanent, nil, "the store refused the request" + said}
}

func unansweredGCS(err error) cause {
	var token *auth.Error
	switch {
	case errors.Is(err, storage.ErrBucketNotExist):
		return causeNoBucket
	case errors.Is(err, storage.ErrObjectNotExist):
		return causeNotFound
	case !errors.As(err, &token):
		return common(err)
	case strings.Contains(string(token.Body), "reasonable timeframe"):
		return skewed("")
	case token.Response != nil && token.Response.StatusCode < 500 && token.Response.StatusCode != http.StatusTooManyRequests:
		var body struct {
			Error       string `json:"error"`
			Description string `json:"error_description"`
		}
		_ = json.Unmarshal(token.Body, &body)
		return refused(paren(body.Error, body.Description))
	case token.Err != nil:
		return common(token.Err)
	}
	return unavailable("")
}
