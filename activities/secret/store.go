// Package secret reads the secrets that a worker may use, and keeps what it
// read out of everything that leaves the worker (design: G4). A secret is one
// of the worker's cluster, or a folder of files, one a key, as Kubernetes
// mounts one. Start with Store.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/keyfiles"
)

// Cluster is where a worker in a cluster reads secrets and config maps.
type Cluster interface {
	Secret(ctx context.Context, namespace, name string) (map[string][]byte, error)
	ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error)
}

// Store reads secrets and config maps from directories of the worker's host,
// and from its cluster.
type Store struct {
	// Cluster, where not nil, has what is named with a namespace.
	Cluster Cluster
	// Secrets holds a folder for each secret; ConfigMaps one for each config
	// map. A namespace, where a reference has one, is a folder above them.
	Secrets    string
	ConfigMaps string
	// Redact learns what was read from Secrets.
	Redact *Redactor
}

// identifying are the keys of a Secret that say who and where, not how to get
// in. Masking "backup" or "5432" in every text would hide what failed; nothing
// puts them into a text on purpose.
var identifying = map[string]bool{
	"username": true, "user": true, "host": true, "hostname": true, "port": true, "database": true, "dbname": true, "sslmode": true, "tls": true,
	// Of a location profile (location.FromKeys).
	"type": true, "bucket": true, "endpoint": true, "prefix": true, "region": true, "role": true, "storageAccount": true, "skipTLSVerify": true,
	"caBundle": true, "encryption": true, "kmsKey": true, "lockMode": true, "lockFor": true,
}

var name = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)

// Secret returns the keys of a secret.
func (s *Store) Secret(ctx context.Context, ref plan.Reference) (data map[string][]byte, err error) {
	if s.Cluster != nil && ref.Namespace != "" {
		data, err = s.Cluster.Secret(ctx, ref.Namespace, ref.Name)
	} else {
		data, err = read("secret", s.Secrets, "secretsDir", ref)
	}
	for k, v := range data {
		if !identifying[k] {
			s.Redact.Learn(v)
		}
	}
	return data, err
}

// ConfigMap returns the keys of a config map.
func (s *Store) ConfigMap(ctx context.Context, ref plan.Reference) (map[string]string, error) {
	if s.Cluster != nil && ref.Namespace != "" {
		return s.Cluster.ConfigMap(ctx, ref.Namespace, ref.Name)
	}
	data, err := read("config map", s.ConfigMaps, "configMapsDir", ref)
	out := make(map[string]string, len(data))
	for k, v := range data {
		out[k] = string(v)
	}
	return out, err
}

func read(kind, root, setting string, ref plan.Reference) (map[string][]byte, error) {
	if root == "" {
		return nil, fault.New(fault.User, "%s %q: this worker has no %s; set it in the worker's configuration", kind, ref.Name, setting)
	}
	for _, n := range []string{ref.Name, ref.Namespace} {
		if n != "" && !name.MatchString(n) {
			return nil, fault.New(fault.User, "%s: %q is no name of a Kubernetes object", kind, n)
		}
	}
	dir := filepath.Join(root, ref.Namespace, ref.Name)
	data, err := keyfiles.Read(dir)
	var at *fs.PathError
	if errors.As(err, &at) && at.Path == dir && errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.User, "%s %q: no folder %s on this worker; make one, with a file for each key", kind, ref.Name, dir)
	}
	if err != nil {
		return nil, fault.New(fault.Permanent, "%s %q: %w", kind, ref.Name, err)
	}
	if len(data) == 0 {
		return nil, fault.New(fault.User, "%s %q: folder %s has no file; write one for each key", kind, ref.Name, dir)
	}
	return data, nil
}

// Of is the view that one run has of a store: it adds the names that the run
// gave ("secrets": {"admin": {"name": "pg-admin"}}).
type Of struct {
	*Store
	Names map[string]plan.Reference
}

// Named returns the secret that the run gave under that name.
func (o Of) Named(ctx context.Context, n string) (map[string][]byte, error) {
	ref, ok := o.Names[n]
	if !ok {
		return nil, fault.New(fault.User, "secret %q: the run names none of that name; add to its input \"secrets\": {%q: {\"name\": \"...\"}}", n, n)
	}
	data, err := o.Secret(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("secret %q: %w", n, err)
	}
	return data, nil
}
