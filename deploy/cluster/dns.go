package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// The cluster's name server: services and the pods of headless ones, asked of
// the API server at each query, and nothing else. Pods have no way out anyway.

func dnsMain(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("dns", flag.ContinueOnError)
	listen := f.String("listen", nodeIP+":53", "address, for UDP and TCP")
	pki := f.String("pki", "", "directory with ca.crt, dns.crt and dns.key")
	if err := f.Parse(args); err != nil {
		return err
	}
	r, err := newResolver(*pki)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	udp, err := net.ListenPacket("udp", *listen)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	tcp, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	context.AfterFunc(ctx, func() { _, _ = udp.Close(), tcp.Close() })
	go func() {
		for {
			c, err := tcp.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				go r.serveTCP(ctx, c)
			}
		}
	}()
	for {
		b := make([]byte, 1500)
		n, from, err := udp.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			continue
		}
		go func() {
			if answer := r.answer(ctx, b[:n]); answer != nil {
				_, _ = udp.WriteTo(answer, from)
			}
		}()
	}
}

func (r *resolver) serveTCP(ctx context.Context, c net.Conn) {
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		var n uint16
		if binary.Read(c, binary.BigEndian, &n) != nil {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		answer := r.answer(ctx, b)
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil || answer == nil {
			return
		}
	}
}

type resolver struct {
	client *http.Client
	server string // URL of the API
}

func newResolver(pki string) (*resolver, error) {
	cert, err := tls.LoadX509KeyPair(pki+"/dns.crt", pki+"/dns.key")
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(pki + "/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	t := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots}}
	return &resolver{client: &http.Client{Transport: t, Timeout: 3 * time.Second}, server: "https://" + nodeIP + ":" + apiPort}, nil
}

const ttl = 1 // seconds: a restored pod has another address

func (r *resolver) answer(ctx context.Context, query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 || m.Response {
		return nil
	}
	q := m.Questions[0]
	m = dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
		Questions: m.Questions,
	}
	ips, err := r.lookup(ctx, strings.ToLower(strings.TrimSuffix(q.Name.String(), ".")))
	switch {
	case errors.Is(err, errNoName):
		m.RCode = dnsmessage.RCodeNameError
	case err != nil:
		slog.Warn("lookup", "name", q.Name.String(), "err", err)
		m.RCode = dnsmessage.RCodeServerFailure
	case q.Type == dnsmessage.TypeA:
		for _, ip := range ips {
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: ttl}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		return nil
	}
	return b
}

var errNoName = errors.New("no such name")

// lookup resolves [POD.]SERVICE.NAMESPACE.svc.cluster.local.
func (r *resolver) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	name, ours := strings.CutSuffix(name, ".svc."+domain)
	labels := strings.Split(name, ".")
	if !ours || len(labels) < 2 || len(labels) > 3 {
		return nil, errNoName
	}
	service, namespace := labels[len(labels)-2], labels[len(labels)-1]
	var s struct{ Spec struct{ ClusterIP string } }
	if err := r.get(ctx, "/api/v1/namespaces/"+namespace+"/services/"+service, &s); err != nil {
		return nil, err
	}
	if ip, err := netip.ParseAddr(s.Spec.ClusterIP); err == nil && len(labels) == 2 {
		return []netip.Addr{ip}, nil
	}
	var slices struct {
		Items []struct {
			Endpoints []struct {
				Addresses  []string
				Hostname   string
				Conditions struct{ Ready *bool }
			}
		}
	}
	if err := r.get(ctx, "/apis/discovery.k8s.io/v1/namespaces/"+namespace+"/endpointslices?labelSelector=kubernetes.io/service-name%3D"+service, &slices); err != nil {
		return nil, err
	}
	var ips []netip.Addr
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if (e.Conditions.Ready != nil && !*e.Conditions.Ready) || (len(labels) == 3 && e.Hostname != labels[0]) {
				continue
			}
			for _, a := range e.Addresses {
				if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
					ips = append(ips, ip)
				}
			}
		}
	}
	if len(ips) == 0 && len(labels) == 3 {
		return nil, errNoName
	}
	return ips, nil
}

func (r *resolver) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.server+path, nil)
	if err != nil {
		return errNoName // a name that no object can have
	}
	answer, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	switch answer.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(answer.Body).Decode(into)
	case http.StatusNotFound:
		return errNoName
	default:
		return fmt.Errorf("get %s: %s", path, answer.Status)
	}
}
