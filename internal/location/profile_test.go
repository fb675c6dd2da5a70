package location_test

import (
	"encoding/pem"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/teststore"
)

const hidden = "secret-that-nobody-may-see"

func TestFromKeys(t *testing.T) {
	type keys map[string]string
	for _, c := range []struct {
		name  string
		given keys
		want  func(p *templates.Profile)
		says  []string // nil: it is good
	}{
		{"s3", keys{"type": "s3", "bucket": " b\n", "accessKeyID": "a", "secretAccessKey": hidden + "\n", "region": "eu-central-1", "skipTLSVerify": "true"}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "s3Compliant", Bucket: "b", Region: "eu-central-1"}
			p.SkipSSLVerify = true
			p.Credential = templates.Credential{Type: "secret", Secret: &templates.Secret{Type: "secrets.kanister.io/aws", Data: map[string][]byte{"aws_access_key_id": []byte("a"), "aws_secret_access_key": []byte(hidden)}}}
		}, nil},
		{"s3 by the environment", keys{"type": "s3Compliant", "bucket": "b"}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "s3Compliant", Bucket: "b"}
		}, nil},
		{"s3 by a role alone", keys{"type": "s3", "bucket": "b", "role": "arn:aws:iam::1:role/r"}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "s3Compliant", Bucket: "b"}
			p.Credential = templates.Credential{Type: "secret", Secret: &templates.Secret{Type: "secrets.kanister.io/aws", Data: map[string][]byte{"role": []byte("arn:aws:iam::1:role/r")}}}
		}, nil},
		{"gcs", keys{"type": "gcs", "bucket": "b", "serviceAccountKey": `{"project_id":"p"}`}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "gcs", Bucket: "b"}
			p.Credential = templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "p", Secret: `{"project_id":"p"}`}}
		}, nil},
		{"azure", keys{"type": "azure", "bucket": "b", "storageAccount": "a", "storageKey": hidden}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "azure", Bucket: "b"}
			p.Credential = templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "a", Secret: hidden}}
		}, nil},
		{"azure by the environment", keys{"type": "azure", "bucket": "b", "storageAccount": "a"}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "azure", Bucket: "b"}
			p.Credential = templates.Credential{Type: "secret", Secret: &templates.Secret{Type: "secrets.kanister.io/azure", Data: map[string][]byte{"azure_storage_account_id": []byte("a")}}}
		}, nil},
		{"a directory", keys{"type": "directory", "bucket": "/backups", "prefix": "/one/"}, func(p *templates.Profile) {
			p.Location = templates.Location{Type: "directory", Bucket: "/backups", Prefix: "/one/"}
		}, nil},
		{"nothing", keys{}, nil, []string{"no type", "no bucket"}},
		{"all that is wrong at once", keys{"type": "s3", "secretAccessKey": hidden, "storageKey": hidden, "skipTLSVerify": hidden, "passwd": hidden, "lockMode": "forever", "endpoint": "ftp://x", "prefix": "../x"}, nil, []string{
			"no bucket", "accessKeyID and secretAccessKey belong together", "storageKey is for a location of type azure", "skipTLSVerify is neither true nor false",
			`the key "passwd" is not known`, `lockMode "forever"`, "endpoint is no address", "leaves the location", "lockMode needs lockFor",
		}},
		{"an unknown type", keys{"type": "ftp", "bucket": "b"}, nil, []string{`"ftp" is not known`}},
		{"a token without keys", keys{"type": "s3", "bucket": "b", "sessionToken": hidden}, nil, []string{"sessionToken belongs to"}},
		{"a key that is none", keys{"type": "gcs", "bucket": "b", "serviceAccountKey": hidden}, nil, []string{"not the JSON"}},
		{"azure without an account", keys{"type": "azure", "bucket": "b", "storageKey": hidden}, nil, []string{"needs storageAccount"}},
		{"a relative directory", keys{"type": "directory", "bucket": "backups"}, nil, []string{"absolute path"}},
		{"a directory with a network's fields", keys{"type": "directory", "bucket": "/b", "region": "r", "lockMode": "governance", "lockFor": "720h"}, nil, []string{"no endpoint, region", "cannot lock"}},
		{"a lock of an hour", keys{"type": "s3", "bucket": "b", "lockMode": "compliance", "lockFor": "1h"}, nil, []string{"under a day"}},
		{"a lock without a mode", keys{"type": "s3", "bucket": "b", "lockFor": "720h"}, nil, []string{"lockFor has no meaning without lockMode"}},
		{"a key that encrypts what another does", keys{"type": "azure", "bucket": "b", "storageAccount": "a", "storageKey": hidden, "kmsKey": "k", "encryption": "aws:kms"}, nil, []string{"encryption is for s3", "kmsKey is for s3 and gcs"}},
		{"a password in the endpoint", keys{"type": "s3", "bucket": "b", "endpoint": "https://me:" + hidden + "@store"}, nil, []string{"endpoint is no address"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			given := map[string][]byte{}
			for k, v := range c.given {
				given[k] = []byte(v)
			}
			p, err := location.FromKeys(given)
			if c.says == nil {
				require.NoError(t, err)
				var want templates.Profile
				c.want(&want)
				require.Equal(t, want, p)
				return
			}
			require.Equal(t, fault.User, fault.Of(err), "%v", err)
			for _, s := range c.says {
				require.ErrorContains(t, err, s)
			}
			require.NotContains(t, err.Error(), hidden)
		})
	}
}

// A credential of another store's kind, or half of one, is said at once.
func TestCredentialsThatCannotBe(t *testing.T) {
	secret := func(kind string, data ...string) templates.Credential {
		s := &templates.Secret{Type: kind, Data: map[string][]byte{}}
		for _, k := range data {
			s.Data[k] = []byte(hidden)
		}
		return templates.Credential{Type: "secret", Secret: s}
	}
	for _, c := range []struct {
		name, kind string
		credential templates.Credential
		says       string
	}{
		{"azure's for s3", "s3Compliant", secret("secrets.kanister.io/azure", "azure_storage_account_id"), "use one of type secrets.kanister.io/aws"},
		{"half a key of s3", "s3Compliant", secret("secrets.kanister.io/aws", "aws_access_key_id"), "needs aws_access_key_id and aws_secret_access_key, or role"},
		{"aws's for azure", "azure", secret("secrets.kanister.io/aws", "aws_access_key_id"), "use one of type secrets.kanister.io/azure"},
		{"no account of azure", "azure", secret("secrets.kanister.io/azure", "azure_storage_key"), "needs azure_storage_account_id"},
		{"an unknown cloud of azure", "azure", secret("", "azure_storage_account_id", "azure_storage_environment"), "azure_storage_environment is not known"},
		{"a key of azure that is none", "azure", templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "a", Secret: hidden + "%"}}, "no key"},
		{"no account in gcs", "gcs", secret(""), "needs service-account.json"},
		{"no JSON in gcs", "gcs", templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "p", Secret: hidden}}, "not the JSON"},
		{"a program in gcs", "gcs", templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "p", Secret: `{"type":"external_account","credential_source":{"executable":{"command":"` + hidden + `"}}}`}}, "not the JSON"},
		{"Kopia's server", "s3Compliant", templates.Credential{Type: "kopia"}, "Thaw does not use"},
		{"a pair without a secret", "s3Compliant", templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: hidden}}, "without its secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := location.Open(t.Context(), templates.Profile{Location: templates.Location{Type: c.kind, Bucket: "b", Region: "r"}, Credential: c.credential})
			require.ErrorContains(t, err, c.says)
			require.Equal(t, fault.User, fault.Of(err), "%v", err)
			require.NotContains(t, err.Error(), hidden)
		})
	}
}

func TestTLS(t *testing.T) {
	server := teststore.StartS3(t, teststore.S3Options{})
	to, err := url.Parse("http://" + server.Direct)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewTLSServer(proxy) // the name stays the client's, for its signature is of it
	t.Cleanup(front.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}))
	_, port, _ := strings.Cut(strings.TrimPrefix(front.URL, "https://"), ":")
	for _, c := range []struct {
		name, endpoint, ca string
		skip               bool
		kind               fault.Kind
		says               string // "": it works
	}{
		{"an authority that is given", front.URL, ca, false, "", ""},
		{"the same, without a scheme", "127.0.0.1:" + port, ca, false, "", ""},
		{"nothing verified", front.URL, "", true, "", ""},
		{"an authority that is not known", front.URL, "", false, fault.User, "caBundle"},
		{"another name", "https://localhost:" + port, ca, false, fault.User, "not for this endpoint's name"},
		{"a bundle that is none", front.URL, "no PEM", false, fault.User, "caBundle holds no certificate"},
		{"TLS where there is none", "https://" + server.Direct, "", false, fault.User, "does not speak TLS"},
		{"nobody there", "https://127.0.0.1:1", "", false, fault.Transient, "network"},
		{"a name that is not there", "https://store.invalid", "", false, fault.Transient, "store.invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := server.Profile
			p.Location.Endpoint, p.Location.CABundle, p.SkipSSLVerify = c.endpoint, c.ca, c.skip
			s, err := location.Open(t.Context(), p)
			if err == nil {
				defer s.Close()
				_, err = s.Put(t.Context(), strings.ReplaceAll(c.name, " ", "-"), strings.NewReader("x"), location.PutOptions{})
			}
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.kind, fault.Of(err), "%v", err)
			require.NotContains(t, err.Error(), teststore.Secret)
		})
	}
}

func TestWhatAStoreRefuses(t *testing.T) {
	t.Run("another region", func(t *testing.T) {
		p := teststore.S3(t)
		p.Location.Region = "eu-west-1"
		_, err := open(t, p).Put(t.Context(), "x", strings.NewReader("x"), location.PutOptions{})
		require.ErrorContains(t, err, "correct the profile's region")
		require.Equal(t, fault.User, fault.Of(err))
	})
	t.Run("a full file system", func(t *testing.T) {
		p := templates.Profile{Location: templates.Location{Type: "directory", Bucket: teststore.Small(t, 1<<20)}}
		s := open(t, p)
		_, err := s.Put(t.Context(), "x", stream(2<<20), location.PutOptions{})
		require.ErrorContains(t, err, "the store is full")
		require.Equal(t, fault.Permanent, fault.Of(err))
		put(t, s, "y", strings.Repeat("y", 500<<10)) // nothing of the other is left
	})
}
