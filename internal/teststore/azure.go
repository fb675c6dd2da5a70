package teststore

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"thaw/blueprints/templates"
)

// Account and AccountKey are the Azure store's: published ones, which every
// emulator of it has.
const (
	Account    = "devstoreaccount1"
	AccountKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Azure is the profile of a new Azure store.
func Azure(t testing.TB) templates.Profile {
	t.Helper()
	return StartAzure(t).Profile
}

// azurite is the program of the Azure store, below bin.
const azurite = "azurite/node_modules/azurite/dist/src/blob/main.js"

// StartAzure starts an Azure store with an empty container. It is a program of
// Node.js: where that is missing the test is skipped, whatever RequireStores
// says, since a machine without it cannot build the store either.
func StartAzure(t testing.TB) *Server {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node not found: Azure is not tested; install Node.js with npm, and run `make bin/azurite`")
	}
	bin := built(azurite)
	if bin == "" {
		if _, err := exec.LookPath("npm"); err != nil {
			t.Skip("npm not found: Azure is not tested; install it, and run `make bin/azurite`")
		}
		missing(t, "azurite not found: run `make bin/azurite`")
	}
	s := newServer(t, "")
	s.Dir = t.TempDir()
	host, port, _ := strings.Cut(s.Direct, ":")
	s.run(func() *exec.Cmd {
		return command(node, bin, "--blobHost", host, "--blobPort", port, "--location", s.Dir, "--silent", "--disableTelemetry", "--skipApiVersionCheck")
	})
	s.kept = func(name string) bool { return azuriteKept(s.Dir, name) }
	key, err := container.NewSharedKeyCredential(Account, AccountKey)
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	c, err := container.NewClientWithSharedKeyCredential("http://"+s.Direct+"/"+Account+"/"+Bucket, key, nil)
	if err == nil {
		_, err = c.Create(context.Background(), nil)
	}
	if err != nil {
		t.Fatalf("teststore: make the container: %v: %s", err, s.log)
	}
	s.Profile = templates.Profile{
		Location:   templates.Location{Type: "azure", Bucket: Bucket, Endpoint: "http://" + s.Line.Addr() + "/" + Account},
		Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: Account, Secret: AccountKey}},
	}
	return s
}

// azuriteKept says whether azurite has an object on its disk: it writes its two
// databases every five seconds, and says before that an object is stored.
func azuriteKept(dir, name string) bool {
	var blobs struct {
		Collections []struct {
			Data []struct {
				Name        string `json:"name"`
				Persistency struct {
					ID string `json:"id"`
				} `json:"persistency"`
			} `json:"data"`
		} `json:"collections"`
	}
	b, err := os.ReadFile(filepath.Join(dir, "__azurite_db_blob__.json"))
	if err != nil || json.Unmarshal(b, &blobs) != nil {
		return false
	}
	extents, err := os.ReadFile(filepath.Join(dir, "__azurite_db_blob_extent__.json"))
	if err != nil {
		return false
	}
	for _, c := range blobs.Collections {
		for _, o := range c.Data {
			if o.Name == name {
				return o.Persistency.ID != "" && bytes.Contains(extents, []byte(o.Persistency.ID))
			}
		}
	}
	return false
}
