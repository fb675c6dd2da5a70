package location

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// Bounds of what a network may do to a request.
const (
	dialTime   = 20 * time.Second
	writeTime  = time.Minute
	answerTime = 5 * time.Minute // a store joins the parts of a large object meanwhile
)

// newTransport is how a store is reached: the profile's trust, and no wait
// without an end.
func newTransport(p templates.Profile) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: p.SkipSSLVerify} //nolint:gosec // what the profile says
	if p.Location.CABundle != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(p.Location.CABundle)) {
			return nil, fault.New(fault.User, "caBundle holds no certificate in PEM")
		}
		conf.RootCAs = pool
	}
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 15 * time.Second}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = conf
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &patient{c}, nil
	}
	t.ResponseHeaderTimeout = answerTime
	t.MaxIdleConnsPerHost = 16
	t.WriteBufferSize, t.ReadBufferSize = 64<<10, 64<<10
	return t, nil
}

// patient is a connection that breaks where its peer takes nothing for long.
type patient struct{ net.Conn }

func (p *patient) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}

// withEnvironmentTrust adds what AWS_CA_BUNDLE names, where the environment's
// identity is used: the two belong together.
func withEnvironmentTrust(p templates.Profile) templates.Profile {
	if file := os.Getenv("AWS_CA_BUNDLE"); file != "" && p.Location.CABundle == "" {
		if b, err := os.ReadFile(file); err == nil {
			p.Location.CABundle = string(b)
		}
	}
	return p
}
