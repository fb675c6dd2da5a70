package location

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"

	"thaw/blueprints/fault"
)

// cause is what an error of a client means: for the engine the kind, for
// callers the sentinel (if any), for people a text that says what to do.
type cause struct {
	kind fault.Kind
	is   error
	text string
}

// What every store may say, in the words of all.
var (
	causeNotFound = cause{fault.Permanent, ErrNotFound, "look for it with another name or prefix"}
	causeExists   = cause{fault.Permanent, ErrExists, "another has written it"}
	causeRange    = cause{fault.Permanent, ErrRange, "it has fewer bytes than were asked for"}
	causeNoBucket = cause{fault.User, nil, "the bucket does not exist: create it, or correct bucket, endpoint and region of the profile"}
)

func refused(detail string) cause {
	return cause{fault.User, nil, "the store refused the credential: check that it is valid and may do this (docs/locations.md lists what each store has to allow)" + detail}
}

func skewed(detail string) cause {
	return cause{fault.User, nil, "the store refused the time of the request: set the clock of this machine (by NTP), or the store's where it is the wrong one" + detail}
}

func full(detail string) cause {
	return cause{fault.Permanent, nil, "the store is full or over its quota: free or add space" + detail}
}

func locked(detail string) cause {
	return cause{fault.Permanent, ErrLocked, "it can be deleted or replaced when its lock has ended" + detail}
}

func unavailable(detail string) cause {
	return cause{fault.Transient, nil, "the store did not serve the request; it is tried again" + detail}
}

// paren puts what the store itself said behind our words.
func paren(words ...string) string {
	words = slices.DeleteFunc(words, func(w string) bool { return strings.TrimSpace(w) == "" })
	if len(words) == 0 {
		return ""
	}
	text := strings.Join(strings.Fields(strings.Join(words, ": ")), " ")
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return " (" + text + ")"
}

// common says what an error means that no store's answer is behind.
func common(err error) cause {
	var (
		f         *fault.Error
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		dns       *net.DNSError
		op        *net.OpError
		errno     syscall.Errno
		u         *url.Error
	)
	switch {
	case errors.As(err, &f):
		return cause{f.Kind, sentinel(err), f.Error()}
	case errors.Is(err, ErrNotFound):
		return causeNotFound
	case errors.Is(err, ErrExists):
		return causeExists
	case errors.Is(err, ErrRange):
		return causeRange
	case errors.Is(err, ErrLocked):
		return locked("")
	case errors.As(err, &authority):
		return cause{fault.User, nil, "the store's certificate is signed by an authority that is not known here: set caBundle to that authority's certificate"}
	case errors.As(err, &host):
		return cause{fault.User, nil, "the store's certificate is not for this endpoint's name: correct the endpoint, or the certificate"}
	case errors.As(err, &invalid), errors.As(err, &verify):
		return cause{fault.User, nil, "the store's certificate is not valid: it may have run out, or the clock of this machine is wrong"}
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return cause{fault.User, nil, "the endpoint does not speak TLS: write it with http:// in front, or give it a certificate"}
	case errors.As(err, &dns):
		return cause{fault.Transient, nil, "the endpoint's name " + dns.Name + " was not found: check the endpoint, and this machine's DNS"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, http.ErrHandlerTimeout):
		return cause{fault.Transient, nil, "the store did not answer in time; check the network to it"}
	case errors.As(err, &errno):
		return cause{fault.Transient, nil, "the network to the store failed: " + errno.Error()}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return cause{fault.Transient, nil, "the connection to the store broke"}
	case errors.As(err, &op):
		return cause{fault.Transient, nil, "the network to the store failed: " + op.Op}
	case errors.As(err, &u):
		return cause{fault.Transient, nil, "the request to the store failed" + paren(u.Err.Error())}
	}
	return cause{fault.Transient, nil, "the request failed" + paren(err.Error())}
}

func sentinel(err error) error {
	for _, s := range []error{ErrNotFound, ErrExists, ErrRange, ErrLocked} {
		if errors.Is(err, s) {
			return s
		}
	}
	return nil
}

// redacted takes a profile's secrets out of a text. None should be in it.
func redacted(text string, secrets []string) string {
	for _, s := range secrets {
		if len(s) >= 6 {
			text = strings.ReplaceAll(text, s, "[secret]")
		}
	}
	return text
}
