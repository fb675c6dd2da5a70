// Package manifest is the family of functions that capture the manifests of an
// application and put them back. Start with capture.go and apply.go; what is
// done to an object on the way is in package manifests.
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const family = "manifest"

// Functions of this family, on a cluster that may be nil. key is the file of
// the key that encrypts Secrets; it is made where it does not exist.
func Functions(c *cluster.Cluster, key string) []function.Function {
	return []function.Function{
		captureManifests(c, key), applyManifests(c, key), revertManifests(c, key), waitWorkloads(c), createNamespace(c), deleteNamespace(c),
	}
}

// everything is what a worker needs to read and write objects of any kind.
func everything(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Group: "*", Resources: []string{"*"}, Verbs: verbs}
}

func namespaces(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Resources: []string{"namespaces"}, Verbs: verbs, Cluster: true}
}

// write puts a file on disk, whole or not at all.
func write(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fault.New(fault.Permanent, "%w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".thaw-*")
	if err != nil {
		return fault.New(fault.Permanent, "%w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fault.New(fault.Transient, "write %s: %w", path, err)
	}
	return nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
