package web

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const (
	maxRedirects = 5
	maxAnswer    = 1 << 20
	// maxQuoted is how much of an answer that is not as expected is told.
	maxQuoted = 500
)

// send makes one attempt. What failed before a connection was there changed
// nothing and is Transient; from then on the receiver may have acted, and only
// its answer tells.
func (r *request) send(ctx context.Context) (function.Outputs, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("no answer within %s", r.timeout))
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, r.fail(fault.User, "%w", bare(err))
	}
	req.Header = r.headers.Clone()
	if r.key != nil {
		req.Header.Set(headerSignature, sign(r.key, r.body, time.Now()))
	}
	if r.env.Heartbeat != nil {
		r.env.Heartbeat(r.where())
	}
	var refused string
	client := http.Client{Transport: r.transport(), CheckRedirect: func(next *http.Request, via []*http.Request) error {
		refused = r.redirect(next, via)
		if refused != "" || r.expected.has(next.Response.StatusCode) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, r.unanswered(ctx, err, connected.Load())
	}
	defer func() { _ = resp.Body.Close() }()
	expected := r.expected.has(resp.StatusCode)
	out := function.Outputs{"status": int64(resp.StatusCode)}
	if expected && len(r.into) == 0 {
		return out, nil // the status is the answer
	}
	body, bodyErr := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case !expected:
		return nil, r.unexpected(resp, body, refused)
	case bodyErr != nil:
		return nil, r.fail(fault.Unknown, "status %d, but its answer was cut off: %w", resp.StatusCode, r.because(ctx, bodyErr))
	case len(body) > maxAnswer:
		return nil, r.fail(fault.Command, "status %d, but its answer is over %d bytes, and into reads no longer one", resp.StatusCode, maxAnswer)
	}
	if err := r.read(body, out); err != nil {
		return nil, r.fail(fault.Command, "status %d, but %w", resp.StatusCode, err)
	}
	return out, nil
}

// transport is one attempt's own. It keeps no connection: on one that was used
// before, net/http sends a request again by itself, and nobody could say
// whether it was sent.
func (r *request) transport() http.RoundTripper {
	return &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: r.tls.Clone(), DisableKeepAlives: true, ForceAttemptHTTP2: true}
}

// redirect says why a redirect is not followed; "" where it is. To another
// host goes nothing that the blueprint gave: no header, no signature, no body.
func (r *request) redirect(next *http.Request, via []*http.Request) string {
	to := next.URL.Scheme + "://" + next.URL.Host
	code := next.Response.StatusCode
	switch {
	case len(via) > maxRedirects:
		return fmt.Sprintf("more than %d redirects, the last to %s", maxRedirects, to)
	case next.URL.Scheme != "http" && next.URL.Scheme != "https":
		return "a redirect to another scheme than http and https"
	case next.Method != via[len(via)-1].Method && code != http.StatusSeeOther:
		// A POST that turned into a GET would be lost, and called a success.
		return fmt.Sprintf("a redirect to %s that drops what is sent; give that address as url", to)
	}
	if next.Method != r.method {
		next.Header.Del(headerSignature) // of a body that is not sent again
		next.Header.Del("Content-Type")
	}
	if r.stays(next, via) {
		return ""
	}
	if next.Body != nil && next.Body != http.NoBody {
		return fmt.Sprintf("a redirect of the body to another host, %s; give that address as url", to)
	}
	clear(next.Header)
	next.Header.Set(headerKey, r.env.Key)
	next.Header.Set("User-Agent", "thaw")
	return ""
}

// stays reports that the request has never left the host that the blueprint
// named, nor TLS where it began with it.
func (r *request) stays(next *http.Request, via []*http.Request) bool {
	return !slices.ContainsFunc(append(slices.Clone(via), next), func(q *http.Request) bool {
		upgraded := r.url.Scheme == "http" && q.URL.Scheme == "https" && r.url.Port() == "" && q.URL.Port() == ""
		same := q.URL.Scheme == r.url.Scheme && port(q.URL) == port(r.url)
		return !strings.EqualFold(q.URL.Hostname(), r.url.Hostname()) || (!same && !upgraded)
	})
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

// unanswered classifies an attempt that got no answer.
func (r *request) unanswered(ctx context.Context, err error, connected bool) error {
	var cert *tls.CertificateVerificationError
	err = r.because(ctx, err)
	switch {
	case errors.As(err, &cert):
		return r.fail(fault.User, "its certificate is not trusted: %w; give its authority as caBundle", err)
	case !connected:
		return r.fail(fault.Transient, "nothing was sent: %w", err)
	}
	return r.fail(fault.Unknown, "it may have been received, and was not answered: %w", err)
}

// because is the reason alone: why the context ended, where that is it, and
// without the URL, which may hold a secret.
func (r *request) because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return bare(err)
}

func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// unexpected classifies an answer with another status than expected.
func (r *request) unexpected(resp *http.Response, body []byte, refused string) error {
	text := fmt.Sprintf("status %d, expected %s", resp.StatusCode, r.expected)
	if refused != "" {
		text += ": " + refused
	}
	if said := r.quote(body); said != "" {
		text += ": " + said
	}
	if !again[resp.StatusCode] {
		return r.fail(fault.Command, "%s", text)
	}
	err := r.fail(fault.Transient, "%s", text)
	if d := retryAfter(resp.Header.Get("Retry-After"), time.Now()); d > 0 {
		return &laterError{err, d}
	}
	return err
}

// again are the statuses that say: not now.
var again = map[int]bool{
	http.StatusRequestTimeout: true, http.StatusTooEarly: true, http.StatusTooManyRequests: true, http.StatusInternalServerError: true,
	http.StatusBadGateway: true, http.StatusServiceUnavailable: true, http.StatusGatewayTimeout: true,
}

// quote is the start of an answer, on one line. Secrets go before it is cut:
// nobody recognises the half of one.
func (r *request) quote(body []byte) string {
	s := strings.ToValidUTF8(string(body), "\uFFFD")
	if r.env.Redact != nil {
		s = r.env.Redact(s)
	}
	s = strings.Join(strings.FieldsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f }), " ")
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "..."
	}
	return s
}
