// Package library holds the blueprints that come with Thaw, each a folder with
// blueprint.yaml in it. Adding one is adding a folder. It knows bytes only:
// package blueprints reads them.
package library

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"thaw/blueprints/fault"
)

//go:embed all:*
var files embed.FS

// File is the name of a blueprint in its folder.
const File = "blueprint.yaml"

// Entry is one blueprint of the library.
type Entry struct {
	Name string // of the folder, and of the blueprint
	Path string // in the library, for messages
}

// List lists the library, sorted by name.
func List() ([]Entry, error) {
	found, err := fs.Glob(files, "*/"+File)
	if err != nil {
		return nil, fmt.Errorf("list the library: %w", err)
	}
	entries := make([]Entry, len(found))
	for i, p := range found {
		entries[i] = Entry{Name: path.Dir(p), Path: p}
	}
	return entries, nil
}

// Load returns the text of a blueprint.
func Load(name string) ([]byte, error) {
	if name == "" || strings.ContainsAny(name, "/\\") {
		return nil, fault.New(fault.User, "blueprint %q: not a name in the library; see `thaw blueprint list`", name)
	}
	text, err := files.ReadFile(name + "/" + File)
	if err != nil {
		return nil, fault.New(fault.User, "blueprint %q: the library has none of that name; see `thaw blueprint list`, or give a file", name)
	}
	return text, nil
}
