package location

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// azureSecretType is Kanister's Secret of Azure.
const azureSecretType = "secrets.kanister.io/azure"

// azureNonce is nonce, in the letters that Azure takes.
const azureNonce = "thawput"

// azureStore keeps objects in a container of Azure's blobs.
type azureStore struct {
	container *container.Client
	transport *http.Transport
	lock      lock
}

func openAzure(p templates.Profile) (*azureStore, error) {
	id, err := azureIdentityOf(p)
	if err != nil {
		return nil, err
	}
	transport, err := newTransport(p)
	if err != nil {
		return nil, err
	}
	service := withScheme(p.Location.Endpoint)
	if service == "" {
		if id.account == "" {
			return nil, fault.New(fault.User, "the profile names no storage account: give it in the credential, or an endpoint such as https://ACCOUNT.blob.core.windows.net")
		}
		service = "https://" + id.account + ".blob." + id.suffix
	}
	options := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: transport},
		Retry:     policy.RetryOptions{MaxRetries: 4, RetryDelay: firstWait, MaxRetryDelay: 5 * time.Second},
	}}
	s := &azureStore{transport: transport}
	if s.lock, err = lockOf(p.Location); err != nil {
		return nil, err
	}
	url := service + "/" + p.Location.Bucket
	if id.key == "" {
		token, err := azidentity.NewDefaultAzureCredential(nil)
		if err != nil {
			return nil, err
		}
		s.container, err = container.NewClient(url, token, options)
		return s, err
	}
	shared, err := container.NewSharedKeyCredential(id.account, id.key)
	if err != nil {
		return nil, fault.New(fault.User, "the storage key is no key: it is in base64, as Azure shows it")
	}
	s.container, err = container.NewClientWithSharedKeyCredential(url, shared, options)
	return s, err
}

type azureIdentity struct{ account, key, suffix string }

func azureIdentityOf(p templates.Profile) (azureIdentity, error) {
	id := azureIdentity{suffix: "core.windows.net"}
	switch c := p.Credential; {
	case c.KeyPair != nil:
		id.account, id.key = c.KeyPair.ID, c.KeyPair.Secret
	case c.Secret != nil:
		if c.Secret.Type != "" && c.Secret.Type != azureSecretType {
			return id, fault.New(fault.User, "the credential is a Secret of type %s: use one of type %s", c.Secret.Type, azureSecretType)
		}
		at := func(k string) string { return strings.TrimSpace(string(c.Secret.Data[k])) }
		id.account, id.key = at("azure_storage_account_id"), at("azure_storage_key")
		switch env := strings.ToLower(at("azure_storage_environment")); env {
		case "", "azurecloud", "azurepubliccloud":
		case "azureusgovernmentcloud", "azureusgovernment":
			id.suffix = "core.usgovcloudapi.net"
		case "azurechinacloud":
			id.suffix = "core.chinacloudapi.cn"
		default:
			return id, fault.New(fault.User, "azure_storage_environment is not known: AzureCloud, AzureUSGovernmentCloud or AzureChinaCloud; or set the location's endpoint")
		}
		if id.account == "" {
			return id, fault.New(fault.User, "the Secret of the credential needs azure_storage_account_id, and azure_storage_key where the environment's identity is not to be used")
		}
	}
	return id, nil
}

func (s *azureStore) close() error {
	s.transport.CloseIdleConnections()
	return nil
}

func (s *azureStore) put(ctx context.Context, key string, r io.Reader, o PutOptions) (time.Time, error) {
	first, whole, err := readFirst(r, o.Size)
	if err != nil {
		return time.Time{}, err
	}
	b, mine := s.container.NewBlockBlobClient(key), rand.Text()
	send := func() (*time.Time, error) { return s.putBlocks(ctx, b, first, r, o, mine) }
	if whole {
		send = func() (*time.Time, error) { return s.putWhole(ctx, b, first, o, mine) }
	}
	at, err := send()
	if err == nil {
		return azureTime(at), nil
	}
	if o.New && s.explain(err).is == ErrExists { //nolint:errorlint // a field, not a chain
		if p, perr := b.GetProperties(ctx, nil); perr == nil && metadata(p.Metadata, azureNonce) == mine {
			return azureTime(p.LastModified), nil // an earlier try's, whose answer was lost
		}
	}
	return time.Time{}, err
}

// metadata finds a value whatever the letters of its name became on the way.
func metadata(m map[string]*string, name string) string {
	for k, v := range m {
		if strings.EqualFold(k, name) && v != nil {
			return *v
		}
	}
	return ""
}

func azureTime(t *time.Time) time.Time {
	if t == nil {
		return time.Now()
	}
	return *t
}

func (s *azureStore) putWhole(ctx context.Context, b *blockblob.Client, content []byte, o PutOptions, mine string) (*time.Time, error) {
	options := &blockblob.UploadOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()}
	if o.New {
		options.AccessConditions, options.Metadata = onlyNew(), map[string]*string{azureNonce: &mine}
	}
	options.ImmutabilityPolicyMode, options.ImmutabilityPolicyExpiryTime = s.immutable(o)
	out, err := b.Upload(ctx, streaming.NopCloser(bytes.NewReader(content)), options)
	return out.LastModified, err
}

// putBlocks stages blocks, which nobody sees and Azure drops after a week, and
// then commits them.
func (s *azureStore) putBlocks(ctx context.Context, b *blockblob.Client, first []byte, r io.Reader, o PutOptions, mine string) (*time.Time, error) {
	// Ids of this upload alone, of the same length: others may be under way.
	id := func(number int) string {
		return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32([]byte(mine[:20]), uint32(number)))
	}
	var mu sync.Mutex
	last := 0
	err := sendParts(ctx, first, r, o.Size, func(ctx context.Context, number int, part []byte) error {
		_, err := b.StageBlock(ctx, id(number), streaming.NopCloser(bytes.NewReader(part)), &blockblob.StageBlockOptions{TransactionalValidation: blob.TransferValidationTypeComputeCRC64()})
		mu.Lock()
		defer mu.Unlock()
		last = max(last, number)
		return err
	})
	if err != nil {
		return nil, err
	}
	ids := make([]string, last)
	for i := range ids {
		ids[i] = id(i + 1)
	}
	options := &blockblob.CommitBlockListOptions{}
	if o.New {
		options.AccessConditions, options.Metadata = onlyNew(), map[string]*string{azureNonce: &mine}
	}
	options.ImmutabilityPolicyMode, options.ImmutabilityPolicyExpiryTime = s.immutable(o)
	out, err := b.CommitBlockList(ctx, ids, options)
	return out.LastModified, err
}

func onlyNew() *blob.AccessConditions {
	return &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)}}
}

func (s *azureStore) immutable(o PutOptions) (*blob.ImmutabilityPolicySetting, *time.Time) {
	until, ok := s.lock.until(time.Now())
	if !ok || o.Unlocked {
		return nil, nil
	}
	return s.mode(), &until
}

func (s *azureStore) mode() *blob.ImmutabilityPolicySetting {
	if s.lock.mode == "COMPLIANCE" {
		return to.Ptr(blob.ImmutabilityPolicySettingLocked)
	}
	return to.Ptr(blob.ImmutabilityPolicySettingUnlocked)
}

func (s *azureStore) get(ctx context.Context, key string, offset, length int64, version string) (stream, error) {
	options := &blob.DownloadStreamOptions{Range: blob.HTTPRange{Offset: offset, Count: max(length, 0)}}
	if version != "" {
		options.AccessConditions = &blob.AccessConditions{ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: to.Ptr(azcore.ETag(version))}}
	}
	out, err := s.container.NewBlobClient(key).DownloadStream(ctx, options)
	if err != nil {
		return stream{}, err
	}
	var etag azcore.ETag
	if out.ETag != nil {
		etag = *out.ETag
	}
	left := int64(0)
	if out.ContentLength != nil {
		left = *out.ContentLength
	}
	return stream{out.Body, string(etag), left}, nil
}

func (s *azureStore) stat(ctx context.Context, key string) (Object, error) {
	p, err := s.container.NewBlobClient(key).GetProperties(ctx, nil)
	if err != nil {
		return Object{}, err
	}
	o := Object{Name: key, Modified: azureTime(p.LastModified)}
	if p.ContentLength != nil {
		o.Size = *p.ContentLength
	}
	if p.ImmutabilityPolicyExpiresOn != nil {
		o.LockedUntil = *p.ImmutabilityPolicyExpiresOn
	}
	return o, nil
}

func (s *azureStore) delete(ctx context.Context, key string) error {
	_, err := s.container.NewBlobClient(key).Delete(ctx, &blob.DeleteOptions{DeleteSnapshots: to.Ptr(blob.DeleteSnapshotsOptionTypeInclude)})
	return err
}

func (s *azureStore) list(ctx context.Context, prefix string, each func(Object) error) error {
	for pages := s.container.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &prefix}); pages.More(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, b := range page.Segment.BlobItems {
			o := Object{Name: *b.Name, Modified: azureTime(b.Properties.LastModified)}
			if b.Properties.ContentLength != nil {
				o.Size = *b.Properties.ContentLength
			}
			if err := each(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *azureStore) extend(ctx context.Context, key string, until time.Time) error {
	if s.lock.mode == "" {
		return nil
	}
	b := s.container.NewBlobClient(key)
	p, err := b.GetProperties(ctx, nil)
	if err != nil {
		return err
	}
	if p.ImmutabilityPolicyExpiresOn != nil && !p.ImmutabilityPolicyExpiresOn.Before(until) {
		return nil
	}
	mode := s.mode()
	if p.ImmutabilityPolicyMode != nil && strings.EqualFold(string(*p.ImmutabilityPolicyMode), "locked") {
		mode = to.Ptr(blob.ImmutabilityPolicySettingLocked) // it cannot be taken back
	}
	_, err = b.SetImmutabilityPolicy(ctx, until.Add(time.Second-time.Nanosecond).UTC().Truncate(time.Second), &blob.SetImmutabilityPolicyOptions{Mode: mode})
	return err
}

func (s *azureStore) explain(err error) cause { return explainAzure(err) }

// azureMessage is what the store said, in the first line of its answer.
var azureMessage = regexp.MustCompile(`<Message>([^<\r\n]*)`)

func explainAzure(err error) cause {
	var api *azcore.ResponseError
	if !errors.As(err, &api) {
		return unansweredAzure(err)
	}
	answer := api.Error()
	said := paren(api.ErrorCode)
	if m := azureMessage.FindStringSubmatch(answer); m != nil {
		said = paren(api.ErrorCode, m[1])
	}
	switch bloberror.Code(api.ErrorCode) {
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted, bloberror.ContainerDisabled:
		return causeNoBucket
	case bloberror.BlobNotFound, bloberror.ResourceNotFound:
		return causeNotFound
	case bloberror.BlobAlreadyExists, bloberror.ConditionNotMet, bloberror.UnauthorizedBlobOverwrite, bloberror.TargetConditionNotMet:
		return causeExists
	case bloberror.InvalidRange:
		return causeRange
	case bloberror.BlobImmutableDueToPolicy, "BlobImmutableDueToLegalHold", bloberror.LeaseIDMissing, bloberror.LeaseIDMismatchWithBlobOperation:
		return locked(said)
	case "AccountQuotaExceeded", "StorageQuotaExceeded":
		return full(said)
	case bloberror.InvalidBlockList, bloberror.InvalidBlobOrBlock:
		return cause{fault.Transient, nil, "another upload of the same object came between" + said}
	}
	switch text := strings.ToLower(answer); {
	case strings.Contains(text, "date header too old"), strings.Contains(text, "date header in the request is incorrect"):
		return skewed(said)
	case api.StatusCode == http.StatusNotFound:
		return causeNotFound
	case api.StatusCode == http.StatusUnauthorized, api.StatusCode == http.StatusForbidden:
		return refused(said)
	case api.StatusCode == http.StatusInsufficientStorage:
		return full(said)
	case strings.Contains(text, "immutab"):
		return cause{fault.User, nil, "the container takes no lock: enable version-level immutability there, or take lockMode out of the profile" + said}
	case api.StatusCode == http.StatusTooManyRequests, api.StatusCode == http.StatusRequestTimeout, api.StatusCode >= 500:
		return unavailable(said)
	}
	return cause{fault.Permanent, nil, "the store refused the request" + said}
}

func unansweredAzure(err error) cause {
	var failed *azidentity.AuthenticationFailedError
	text := err.Error()
	switch {
	case errors.As(err, &failed), strings.Contains(text, "failed to acquire a token"):
		return cause{fault.User, nil, "the profile has no storage key, and the environment has no identity that can be used"}
	case strings.Contains(text, "non TLS protected"):
		return cause{fault.User, nil, "without a storage key the endpoint has to be https://"}
	}
	return common(err)
}
