package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

// request is one call: checked, with its secrets read, and nothing sent.
type request struct {
	env      *function.Env
	url      *url.URL
	method   string
	headers  http.Header
	body     []byte
	key      []byte // signs the body; nil: unsigned
	expected statuses
	timeout  time.Duration
	tls      *tls.Config
	into     map[string][]string // output -> path
}

// prepare checks all arguments and reads the secrets.
func prepare(ctx context.Context, env *function.Env, a requestArgs) (*request, error) {
	r := &request{env: env, method: strings.ToUpper(a.Method), timeout: a.Timeout}
	var err error
	if r.url, err = parseURL(a.URL); err != nil {
		return nil, err
	}
	if r.timeout <= 0 {
		return nil, r.fail(fault.User, "timeout is %s: give how long an attempt may take, such as 30s", a.Timeout)
	}
	if r.body, err = bodyOf(a); err != nil {
		return nil, r.fail(fault.User, "%w", err)
	}
	if r.expected, err = parseStatuses(a.ExpectedStatus); err != nil {
		return nil, r.fail(fault.User, "%w", err)
	}
	if r.into, err = parsePaths(a.Into); err != nil {
		return nil, r.fail(fault.User, "%w", err)
	}
	if err := r.setHeaders(ctx, a); err != nil {
		return nil, r.fail(fault.User, "%w", err)
	}
	if a.SigningSecret != "" {
		key, err := function.SecretKey(ctx, env, a.SigningSecret)
		if err != nil {
			return nil, r.fail(fault.User, "signingSecret: %w", err)
		}
		r.key = []byte(key)
	}
	if a.CABundle != "" {
		if err := r.trust(ctx, a.CABundle); err != nil {
			return nil, r.fail(fault.User, "caBundle: %w", err)
		}
	}
	return r, nil
}

// parseURL quotes nothing of the URL in its errors: what is wrong may be a
// secret in it.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fault.New(fault.User, "HTTPRequest: url is no URL (it is not quoted here, since it may hold a secret); check what its template renders to")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fault.New(fault.User, "HTTPRequest: url starts with %q; want http:// or https://", u.Scheme+":")
	case u.User != nil:
		return nil, fault.New(fault.User, "HTTPRequest to %s: url holds a user or a password; give them as a secret header, such as secretHeaders: {Authorization: secretName/key}", u.Host)
	case u.Hostname() == "":
		return nil, fault.New(fault.User, "HTTPRequest: url has no host; write https://host/path")
	}
	u.Fragment = ""
	return u, nil
}

func bodyOf(a requestArgs) ([]byte, error) {
	if a.JSON == nil {
		return []byte(a.Body), nil
	}
	if a.Body != "" {
		return nil, fmt.Errorf("body and json exclude each other")
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(a.JSON); err != nil {
		return nil, fmt.Errorf("json: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

const headerKey = "Idempotency-Key"

var (
	token = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	// ours are headers that would break what the function promises, or that
	// HTTP sets by itself.
	ours = map[string]string{
		headerSignature: "give signingSecret", headerKey: "it is the same in every attempt, by itself",
		"Content-Length": "it is set by itself", "Transfer-Encoding": "it is set by itself", "Connection": "it is set by itself", "Host": "give it in url",
	}
)

func (r *request) setHeaders(ctx context.Context, a requestArgs) error {
	r.headers = http.Header{}
	for _, name := range slices.Sorted(maps.Keys(a.Headers)) {
		if err := r.setHeader(name, a.Headers[name]); err != nil {
			return fmt.Errorf("headers: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.SecretHeaders)) {
		v, err := function.SecretKey(ctx, r.env, a.SecretHeaders[name])
		if err != nil {
			return fmt.Errorf("secretHeaders: %s: %w", name, err)
		}
		if err := r.setHeader(name, v); err != nil {
			return fmt.Errorf("secretHeaders: %w", err)
		}
	}
	r.headers.Set(headerKey, r.env.Key)
	if r.headers.Get("User-Agent") == "" {
		r.headers.Set("User-Agent", "thaw")
	}
	if a.JSON != nil && r.headers.Get("Content-Type") == "" {
		r.headers.Set("Content-Type", "application/json")
	}
	return nil
}

// setHeader quotes no value in its errors.
func (r *request) setHeader(name, value string) error {
	canonical := http.CanonicalHeaderKey(name)
	switch why, reserved := ours[canonical]; {
	case !token.MatchString(name):
		return fmt.Errorf("%q is no name of a header", name)
	case reserved:
		return fmt.Errorf("%s cannot be given: %s", name, why)
	case len(r.headers[canonical]) > 0:
		return fmt.Errorf("%s is given twice", name)
	case strings.ContainsFunc(value, func(c rune) bool { return c != '\t' && (c < ' ' || c == 0x7f) }):
		return fmt.Errorf("the value of %s holds a line break or another control character", name)
	}
	r.headers.Set(canonical, strings.TrimSpace(value))
	return nil
}

func (r *request) trust(ctx context.Context, ref string) error {
	if r.url.Scheme != "https" {
		return fmt.Errorf("it is for https; url is http")
	}
	pem, err := function.SecretKey(ctx, r.env, ref)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return fmt.Errorf("secret key %s holds no certificate; want a PEM bundle (-----BEGIN CERTIFICATE-----)", ref)
	}
	r.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return nil
}

// statuses are codes and classes of codes: "204", "2xx".
type statuses map[string]bool

func parseStatuses(list []string) (statuses, error) {
	if len(list) == 0 {
		return nil, fmt.Errorf("expectedStatus is empty; leave it out for 2xx")
	}
	s := statuses{}
	for _, text := range list {
		t := strings.ToLower(strings.TrimSpace(text))
		n, err := strconv.Atoi(strings.Replace(t, "xx", "00", 1))
		if err != nil || len(t) != 3 || n < 200 || n > 599 {
			return nil, fmt.Errorf("expectedStatus %q: write a code such as 204, or a class such as 2xx", text)
		}
		s[t] = true
	}
	return s, nil
}

func (s statuses) has(code int) bool {
	return s[strconv.Itoa(code)] || s[strconv.Itoa(code/100)+"xx"]
}

func (s statuses) String() string { return strings.Join(slices.Sorted(maps.Keys(s)), ", ") }

// where names the receiver in errors. Not its path nor its query: of many
// webhooks they are the secret.
func (r *request) where() string { return r.method + " " + r.url.Scheme + "://" + r.url.Host }

func (r *request) fail(k fault.Kind, format string, args ...any) error {
	return fmt.Errorf("HTTPRequest %s: %w", r.where(), fault.New(k, format, args...))
}
