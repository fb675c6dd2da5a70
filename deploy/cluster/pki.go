package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// identity is a certificate's: who it is for, and as what it may be used.
type identity struct {
	file  string
	name  string
	group string
	hosts []string // of a server; none: a client's only
}

// identities: every component is a user of its own, with the rights that
// Kubernetes' own roles give it.
var identities = []identity{
	{file: "apiserver", name: "kube-apiserver", hosts: []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost", "127.0.0.1", nodeIP, svcAPI,
	}},
	{file: "apiserver-kubelet", name: "thaw:kubelet-client"},
	{file: "admin", name: "thaw:admin", group: "system:masters"},
	{file: "kube-controller-manager", name: "system:kube-controller-manager", hosts: []string{"localhost", "127.0.0.1"}},
	{file: "kube-scheduler", name: "system:kube-scheduler", hosts: []string{"localhost", "127.0.0.1"}},
	{file: "kubelet", name: "system:node:" + nodeName, group: "system:nodes", hosts: []string{nodeName, nodeIP}},
	{file: "kube-proxy", name: "system:kube-proxy"},
	{file: "dns", name: "thaw:dns"},
}

// etcd trusts another authority: no user of Kubernetes is one of etcd.
var etcdIdentities = []identity{
	{file: "etcd", name: "etcd", hosts: []string{"localhost", "127.0.0.1"}},
	{file: "apiserver-etcd", name: "kube-apiserver"},
}

func (p paths) cert(name string) string { return p.in("pki", name+".crt") }
func (p paths) key(name string) string  { return p.in("pki", name+".key") }

// makePKI makes what is not there yet.
func (p paths) makePKI() error {
	if _, err := os.Stat(p.in("pki", "complete")); err == nil {
		return nil
	}
	for authority, ids := range map[string][]identity{"ca": identities, "etcd-ca": etcdIdentities} {
		ca, caKey, err := p.authority(authority)
		if err != nil {
			return fmt.Errorf("make certificates: %s: %w", authority, err)
		}
		for _, id := range ids {
			if err := p.certificate(id, ca, caKey); err != nil {
				return fmt.Errorf("make certificates: %s: %w", id.file, err)
			}
		}
	}
	key, err := p.newKey("service-account")
	if err != nil {
		return fmt.Errorf("make certificates: service accounts' key: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writeFile(p.in("pki", "service-account.pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o644); err != nil {
		return err
	}
	for _, who := range []string{"kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"} {
		if err := p.writeKubeconfig(p.kubeconfig(who), who); err != nil {
			return err
		}
	}
	if err := p.writeKubeconfig(p.admin(), "admin"); err != nil {
		return err
	}
	return writeFile(p.in("pki", "complete"), nil, 0o644)
}

func (p paths) newKey(name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	b, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(p.key(name), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: b}), 0o600)
}

func template(name pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: name,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, nil
}

func (p paths) authority(name string) (*x509.Certificate, crypto.Signer, error) {
	key, err := p.newKey(name)
	if err != nil {
		return nil, nil, err
	}
	t, err := template(pkix.Name{CommonName: "thaw test cluster " + name})
	if err != nil {
		return nil, nil, err
	}
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	return t, key, p.sign(name, t, t, key.Public(), key)
}

func (p paths) certificate(id identity, ca *x509.Certificate, caKey crypto.Signer) error {
	key, err := p.newKey(id.file)
	if err != nil {
		return err
	}
	subject := pkix.Name{CommonName: id.name}
	if id.group != "" {
		subject.Organization = []string{id.group}
	}
	t, err := template(subject)
	if err != nil {
		return err
	}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(id.hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, h := range id.hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return p.sign(id.file, t, ca, key.Public(), caKey)
}

func (p paths) sign(name string, t, ca *x509.Certificate, public crypto.PublicKey, caKey crypto.Signer) error {
	b, err := x509.CreateCertificate(rand.Reader, t, ca, public, caKey)
	if err != nil {
		return err
	}
	return writeFile(p.cert(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b}), 0o644)
}

// writeKubeconfig writes one that contains the certificate, for use anywhere.
func (p paths) writeKubeconfig(file, who string) error {
	crt, err := p.encoded(p.cert(who))
	if err != nil {
		return err
	}
	key, err := p.encoded(p.key(who))
	if err != nil {
		return err
	}
	return p.writeKubeconfigFor(file, fmt.Sprintf("{client-certificate-data: %s, client-key-data: %s}", crt, key))
}

// writeTokenKubeconfig writes one of a service account.
func (p paths) writeTokenKubeconfig(file, token string) error {
	return p.writeKubeconfigFor(file, fmt.Sprintf("{token: %s}", token))
}

func (p paths) writeKubeconfigFor(file, user string) error {
	ca, err := p.encoded(p.cert("ca"))
	if err != nil {
		return err
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: thaw
  cluster: {server: "https://%s:%s", certificate-authority-data: %s}
users:
- name: thaw
  user: %s
contexts:
- name: thaw
  context: {cluster: thaw, user: thaw}
current-context: thaw
`, nodeIP, apiPort, ca, user)
	return writeFile(file, []byte(text), 0o600)
}

func (p paths) encoded(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(b), nil
}
