package manifests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/blueprints/fault"
	"thaw/internal/keyfiles"
)

// The files of a restore point that hold an application's manifests: those that
// anybody may read, and the Secrets, encrypted (https://age-encryption.org/v1).
const (
	File        = "manifests.json"
	SecretsFile = "secrets.json.age"
)

// Version of the files.
const Version = "thaw.dev/manifests/v1alpha1"

// Set is what was captured of an application.
type Set struct {
	APIVersion string `json:"apiVersion"`
	Namespace  string `json:"namespace"`
	// Meta are the labels and annotations of the namespace.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Objects without what a cluster assigned to them, in the order in which
	// they are made.
	Objects []unstructured.Unstructured `json:"objects"`
	// Secrets counts those in the other file.
	Secrets int `json:"secrets,omitempty"`
	// Owned are the objects that others make: the owner graph, for people.
	Owned []Owner `json:"owned,omitempty"`
}

// Owner says whose an object is.
type Owner struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Owner string `json:"owner"` // kind/name
}

// order is that in which kinds are made: what others need comes first, and pods
// come when all that they use is there.
var order = []string{
	"ServiceAccount", "Secret", "ConfigMap", "ResourceQuota", "LimitRange", "NetworkPolicy", "Role", "RoleBinding", "PersistentVolumeClaim", "Service",
}

// late are made when all others are.
var late = []string{"Pod", "ReplicaSet", "Deployment", "DeploymentConfig", "StatefulSet", "DaemonSet", "Job", "CronJob", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Ingress"}

func rank(kind string) int {
	if i := slices.Index(order, kind); i >= 0 {
		return i
	}
	if i := slices.Index(late, kind); i >= 0 {
		return len(order) + 1 + i
	}
	return len(order)
}

// Sort puts objects into the order in which they are made.
func Sort(objects []unstructured.Unstructured) {
	slices.SortStableFunc(objects, func(a, b unstructured.Unstructured) int {
		if d := rank(a.GetKind()) - rank(b.GetKind()); d != 0 {
			return d
		}
		if d := strings.Compare(a.GetKind(), b.GetKind()); d != 0 {
			return d
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
}

// New makes a set of the objects of a namespace; secrets are returned apart.
func New(namespace *unstructured.Unstructured, all []unstructured.Unstructured) (set *Set, secrets []unstructured.Unstructured) {
	ns := Clean(namespace)
	set = &Set{APIVersion: Version, Namespace: namespace.GetName(), Labels: ns.GetLabels(), Annotations: ns.GetAnnotations(), Objects: []unstructured.Unstructured{}}
	for i := range all {
		o := &all[i]
		if why := Skip(o, all); why != "" {
			for _, ref := range o.GetOwnerReferences() {
				if Owned(o, all) && ref.Controller != nil && *ref.Controller {
					set.Owned = append(set.Owned, Owner{o.GetKind(), o.GetName(), ref.Kind + "/" + ref.Name})
				}
			}
			continue
		}
		clean := *Clean(o)
		if o.GetKind() == "Secret" && o.GroupVersionKind().Group == "" {
			secrets = append(secrets, clean)
			continue
		}
		set.Objects = append(set.Objects, clean)
	}
	set.Secrets = len(secrets)
	Sort(set.Objects)
	Sort(secrets)
	return set, secrets
}

// Read reads a set, without its secrets.
func Read(file string) (*Set, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.User, "manifests %s: there are none; the restore point is not complete", file)
	}
	if err != nil {
		return nil, fault.New(fault.Permanent, "manifests %s: %w", file, err)
	}
	var set Set
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fault.New(fault.Permanent, "manifests %s: %w", file, err)
	}
	if set.APIVersion != Version {
		return nil, fault.New(fault.User, "manifests %s are of version %q; this release reads %s", file, set.APIVersion, Version)
	}
	return &set, nil
}

// Identity reads the key that decrypts secrets, or makes one where there is
// none. Whoever loses it loses the Secrets of all restore points made with it.
func Identity(file string) (*age.X25519Identity, error) {
	id, err := keyfiles.Identity(file)
	var unread *fs.PathError
	switch {
	case err == nil:
		return id, nil
	case errors.Is(err, fs.ErrNotExist):
	case errors.As(err, &unread):
		return nil, fault.New(fault.Permanent, "key %w", err)
	default:
		return nil, fault.New(fault.User, "key %w", err)
	}
	id, err = age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", file, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fault.New(fault.Permanent, "key %s: %w", file, err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) { // another worker of this directory was faster
		return Identity(file)
	}
	if err != nil {
		return nil, fault.New(fault.Permanent, "key %s: %w", file, err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "# Decrypts the Secrets in restore points. Keep a copy elsewhere.\n# public key: %s\n%s\n", id.Recipient(), id); err != nil {
		return nil, fault.New(fault.Permanent, "key %s: %w", file, err)
	}
	return id, f.Sync()
}

// Seal encrypts objects.
func Seal(objects []unstructured.Unstructured, id *age.X25519Identity) ([]byte, error) {
	text, err := json.Marshal(objects)
	if err != nil {
		return nil, err
	}
	return SealText(text, id)
}

// SealText encrypts a text.
func SealText(text []byte, id *age.X25519Identity) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, id.Recipient())
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Open decrypts objects.
func Open(sealed []byte, id *age.X25519Identity) ([]unstructured.Unstructured, error) {
	text, err := OpenText(sealed, id)
	if err != nil {
		return nil, err
	}
	var objects []unstructured.Unstructured
	if err := json.Unmarshal(text, &objects); err != nil {
		return nil, fault.New(fault.Permanent, "secrets of the restore point: %w", err)
	}
	return objects, nil
}

// OpenText decrypts a text.
func OpenText(sealed []byte, id *age.X25519Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), id)
	if err != nil {
		return nil, fault.New(fault.User, "secrets of the restore point: %w; give the worker the key that made it (secretsKey)", err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fault.New(fault.Permanent, "secrets of the restore point: %w", err)
	}
	return text, nil
}
