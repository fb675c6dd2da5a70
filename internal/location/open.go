package location

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// Open opens the location of a profile. The profile's credential is inside it;
// neither it nor an error ever is printed with one. Without a credential the
// environment's identity is used. Open reads nothing of the location, but may
// ask a store for the region of its bucket.
func Open(ctx context.Context, p templates.Profile) (Store, error) {
	if err := Check(p); err != nil {
		return nil, err
	}
	l := p.Location
	s := &store{prefix: strings.Trim(l.Prefix, "/"), secret: secretsOf(p)}
	locks, err := lockOf(l)
	if err != nil {
		return nil, err
	}
	s.locks = Lock{strings.ToLower(locks.mode), locks.span}
	explain := common
	switch l.Type {
	case TypeS3:
		s.url, explain = "s3://"+l.Bucket, explainS3
		s.backend, err = openS3(ctx, p)
	case TypeGCS:
		s.url, explain = "gs://"+l.Bucket, explainGCS
		s.backend, err = openGCS(ctx, p)
	case TypeAzure:
		s.url, explain = "azure://"+l.Bucket, explainAzure
		s.backend, err = openAzure(p)
	case TypeDirectory:
		s.url, explain = l.Bucket, explainDirectory
		s.backend, err = openDirectory(p)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open %s: %w", s, ctx.Err())
		}
		c := explain(err)
		return nil, fault.New(c.kind, "open %s: %s", s, redacted(c.text, s.secret))
	}
	return s, nil
}

// Check says all that is wrong with a profile, as far as that shows without
// opening it.
func Check(p templates.Profile) error {
	if err := check(p); err != nil {
		return fault.New(fault.User, "location profile: %w", err)
	}
	return nil
}

func check(p templates.Profile) error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	l, c := p.Location, p.Credential
	switch l.Type {
	case TypeS3, TypeGCS, TypeAzure, TypeDirectory:
	case "":
		wrong("the location has no type: %s", kinds)
	case "kopia":
		wrong("the location is a Kopia API server, which Thaw does not use: %s", kinds)
	default:
		wrong("the location's type %q is not known: %s", l.Type, kinds)
	}
	if l.Bucket == "" {
		wrong("the location has no bucket")
	}
	if name := strings.Trim(l.Prefix, "/"); name != "" {
		if err := checkName(name); err != nil {
			wrong("prefix: %w", err)
		}
	}
	if l.Endpoint != "" {
		if u, err := url.Parse(withScheme(l.Endpoint)); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" {
			wrong("endpoint is no address: write https://host:port, or host:port")
		}
	}
	switch l.Encryption {
	case "", "AES256", "aws:kms":
	default:
		wrong("encryption %q is not known: AES256 or aws:kms", l.Encryption)
	}
	if l.Encryption == "AES256" && l.KMSKey != "" {
		wrong("kmsKey is a key of aws:kms, and encryption says AES256: take one out")
	}
	if l.Encryption != "" && l.Type != TypeS3 {
		wrong("encryption is for s3: other stores encrypt by themselves (gcs takes kmsKey)")
	}
	if l.KMSKey != "" && l.Type != TypeS3 && l.Type != TypeGCS {
		wrong("kmsKey is for s3 and gcs")
	}
	checkLock(l, wrong)
	if l.Type == TypeDirectory {
		if l.Bucket != "" && !filepath.IsAbs(l.Bucket) {
			wrong("the bucket of a directory is its absolute path, not %q", l.Bucket)
		}
		if l.Endpoint != "" || l.Region != "" || l.CABundle != "" || p.SkipSSLVerify {
			wrong("a directory has no endpoint, region, caBundle or skipTLSVerify")
		}
		if c.KeyPair != nil || c.Secret != nil {
			wrong("a directory has no credential")
		}
	}
	if l.CABundle != "" && p.SkipSSLVerify {
		wrong("caBundle has no meaning with skipTLSVerify: take one out")
	}
	checkCredential(c, wrong)
	return errors.Join(errs...)
}

const kinds = "s3Compliant, gcs, azure or directory"

func checkLock(l templates.Location, wrong func(string, ...any)) {
	switch l.LockMode {
	case "", "governance", "compliance":
	default:
		wrong("lockMode %q is not known: governance or compliance", l.LockMode)
	}
	if l.LockMode == "" {
		if l.LockFor != "" {
			wrong("lockFor has no meaning without lockMode: governance or compliance")
		}
		return
	}
	if l.Type == TypeDirectory {
		wrong("a directory cannot lock objects: take lockMode out")
	}
	switch d, err := time.ParseDuration(l.LockFor); {
	case l.LockFor == "":
		wrong("lockMode needs lockFor: how long, such as 720h")
	case err != nil:
		wrong("lockFor %q is no duration: write one such as 720h", l.LockFor)
	case d < 24*time.Hour:
		wrong("lockFor %s is under a day", l.LockFor)
	}
}

func checkCredential(c templates.Credential, wrong func(string, ...any)) {
	switch c.Type {
	case "keyPair":
		if c.KeyPair == nil || c.KeyPair.Secret == "" {
			wrong("the credential is a keyPair without its secret")
		}
	case "secret":
		if c.Secret == nil {
			wrong("the credential is a secret, and it is not there")
		}
	case "kopia":
		wrong("the credential is a Kopia API server's, which Thaw does not use")
	case "":
		if c.KeyPair != nil || c.Secret != nil {
			wrong("the credential has no type: keyPair or secret")
		}
	default:
		wrong("the credential's type %q is not known: keyPair or secret", c.Type)
	}
}

// public are the keys of Kanister's Secrets that people may read.
var public = []string{"role", "azure_storage_account_id", "azure_storage_environment", "gcp_project_id"}

// secretsOf are the texts that never may be printed.
func secretsOf(p templates.Profile) []string {
	var s []string
	if k := p.Credential.KeyPair; k != nil {
		s = append(s, k.Secret)
		var account struct { // of Google: its parts, too
			Key string `json:"private_key"`
			ID  string `json:"private_key_id"`
		}
		if json.Unmarshal([]byte(k.Secret), &account) == nil {
			s = append(s, account.Key, account.ID)
		}
	}
	if sec := p.Credential.Secret; sec != nil {
		for k, v := range sec.Data {
			if !slices.Contains(public, k) {
				s = append(s, strings.TrimSpace(string(v)))
			}
		}
	}
	return s
}
