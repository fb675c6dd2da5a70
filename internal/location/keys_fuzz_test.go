package location_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

// A Secret is typed by hand: whatever is in it, what comes of it is a profile
// that Check passes, or an error of the user's that repeats no secret.
func FuzzFromKeys(f *testing.F) {
	f.Add("s3", "backups", "https://store:9000", "a/b", "us-east-1", "", "AKIA", "the-secret", "governance", "720h", "no")
	f.Add("gcs", "b", "", "", "", "", "", `{"project_id":"p"}`, "", "", "false")
	f.Add("azure", "b", "", "", "", "", "account", "a2V5", "compliance", "24h", "")
	f.Add("directory", "/backups", "", "", "", "", "", "", "", "", "true")
	f.Add("s3", " b\n", "ftp://x", "../x", "r", "no pem", "id", "", "other", "1h", "maybe")
	f.Fuzz(func(t *testing.T, kind, bucket, endpoint, prefix, region, ca, id, secret, mode, span, skip string) {
		given := map[string][]byte{"type": []byte(kind), "bucket": []byte(bucket)}
		for k, v := range map[string]string{"endpoint": endpoint, "prefix": prefix, "region": region, "caBundle": ca, "lockMode": mode, "lockFor": span, "skipTLSVerify": skip} {
			if v != "" {
				given[k] = []byte(v)
			}
		}
		name := map[string][2]string{"s3": {"accessKeyID", "secretAccessKey"}, "gcs": {"projectID", "serviceAccountKey"}, "azure": {"storageAccount", "storageKey"}}[kind]
		if name[0] != "" && id != "" {
			given[name[0]] = []byte(id)
		}
		const marked = "secret-of-the-fuzzer-"
		if name[1] != "" && secret != "" {
			given[name[1]] = []byte(marked + secret)
			if kind == "gcs" {
				given[name[1]] = []byte(secret)
			}
		}
		p, err := location.FromKeys(given)
		if err != nil {
			require.Equal(t, fault.User, fault.Of(err))
			require.NotContains(t, err.Error(), marked)
			require.Equal(t, templates.Profile{}, p)
			return
		}
		require.NoError(t, location.Check(p))
	})
}
