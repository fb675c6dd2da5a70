// Package keyfiles reads secrets that are folders with a file for each key, as
// Kubernetes mounts them.
package keyfiles

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Read returns the keys of a folder, without the newline at the end of each,
// which nobody meant who made a file by hand. Errors: those of the file system;
// that of a file names its key.
func Read(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	data := make(map[string][]byte, len(entries))
	for _, e := range entries {
		// Kubernetes mounts keys as links beside ..data.
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", e.Name(), err)
		}
		data[e.Name()] = []byte(strings.TrimRight(string(b), "\r\n"))
	}
	return data, nil
}
