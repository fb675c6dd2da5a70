package teststore

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Behind is an endpoint of an S3 store as a client sees it whose clock is
// behind the store's by so much. With told, the store's answers tell its time,
// as they do; without, they tell the client's, as where something between the
// two sets it.
func (s *Server) Behind(by time.Duration, told bool) string {
	s.t.Helper()
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s.Direct, s.Direct
			sign(s.t, r.Out, by)
		},
		ModifyResponse: func(res *http.Response) error {
			at := time.Now()
			if told {
				at = at.Add(by)
			}
			res.Header.Set("Date", at.UTC().Format(http.TimeFormat))
			return nil
		},
	})
	s.t.Cleanup(front.Close)
	return front.URL
}

// sign signs a request again, as by a client whose clock is behind: what the
// client took for now is earlier for the store.
func sign(t testing.TB, r *http.Request, by time.Duration) {
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil {
		return // not signed
	}
	r.Header.Del("Authorization")
	r.Header.Del("X-Forwarded-For")
	err = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(r.Context(),
		aws.Credentials{AccessKeyID: Key, SecretAccessKey: Secret}, r, r.Header.Get("X-Amz-Content-Sha256"), "s3", "us-east-1", at.Add(-by))
	if err != nil {
		t.Errorf("teststore: sign again: %v", err)
	}
}
