package teststore

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"time"

	"thaw/blueprints/templates"
)

// GCS is the profile of a new Google Cloud Storage.
func GCS(t testing.TB) templates.Profile {
	t.Helper()
	return StartGCS(t).Profile
}

// StartGCS starts a Google Cloud Storage with an empty bucket, and what gives
// tokens to its service account. The store itself asks nobody who he is.
func StartGCS(t testing.TB) *Server {
	t.Helper()
	bin := program(t, "fake-gcs-server")
	s := newServer(t, "")
	s.Dir = t.TempDir()
	host, port, _ := strings.Cut(s.Direct, ":")
	s.run(func() *exec.Cmd {
		return command(bin, "-scheme", "http", "-host", host, "-port", port, "-backend", "filesystem", "-filesystem-root", s.Dir,
			"-external-url", "http://"+s.Line.Addr(), "-public-host", s.Line.Addr(), "-log-level", "warn")
	})
	res, err := http.Post("http://"+s.Direct+"/storage/v1/b?project=thaw", "application/json", bytes.NewReader([]byte(`{"name":"`+Bucket+`"}`)))
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("teststore: make the bucket: %v %v: %s", res, err, s.log)
	}
	res.Body.Close()
	s.Profile = templates.Profile{
		Location:   templates.Location{Type: "gcs", Bucket: Bucket, Endpoint: "http://" + s.Line.Addr()},
		Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "thaw", Secret: serviceAccount(t, nil, 0)}},
	}
	return s
}

// serviceAccount is the JSON of a service account's key, with a place that
// gives tokens for it, whose clock is ahead by so much; with wrong, for
// another's.
func serviceAccount(t testing.TB, wrong *rsa.PrivateKey, ahead time.Duration) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	public := &key.PublicKey
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { grant(w, r, public, time.Now().Add(ahead)) }))
	t.Cleanup(tokens.Close)
	if wrong != nil {
		key = wrong
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "thaw", "private_key_id": "key-of-the-test", "client_email": "thaw@thaw.iam.gserviceaccount.com",
		"client_id": "1", "token_uri": tokens.URL + "/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	return string(b)
}

// WrongServiceAccount is one whose signature is refused.
func WrongServiceAccount(t testing.TB) string {
	t.Helper()
	wrong, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	return serviceAccount(t, wrong, 0)
}

// SkewedServiceAccount is one for which this machine's clock is behind by so
// much.
func SkewedServiceAccount(t testing.TB, by time.Duration) string {
	t.Helper()
	return serviceAccount(t, nil, by)
}

// grant answers as Google's does: a token for a JWT that the key has signed,
// within the time that it is good for.
func grant(w http.ResponseWriter, r *http.Request, key *rsa.PublicKey, now time.Time) {
	refuse := func(why string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"error":"invalid_grant","error_description":%q}`, why)
	}
	signed, signature, _ := cut(r.FormValue("assertion"))
	sum := sha256.Sum256([]byte(signed))
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig) != nil {
		refuse("Invalid JWT Signature.")
		return
	}
	_, claims, _ := strings.Cut(signed, ".")
	var c struct{ Iat, Exp int64 }
	b, _ := base64.RawURLEncoding.DecodeString(claims)
	if json.Unmarshal(b, &c) != nil || now.Unix() < c.Iat-300 || now.Unix() > c.Exp {
		refuse("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprint(w, `{"access_token":"token-of-the-test","token_type":"Bearer","expires_in":3600}`)
}

// cut parts a JWT before its signature.
func cut(jwt string) (signed, signature string, ok bool) {
	i := strings.LastIndexByte(jwt, '.')
	if i < 0 {
		return jwt, "", false
	}
	return jwt[:i], jwt[i+1:], true
}
