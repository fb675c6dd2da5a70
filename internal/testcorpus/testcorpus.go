// Package testcorpus finds the public blueprints that nobody here wrote, which
// are not part of the tree.
package testcorpus

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Require is the environment variable that turns a missing corpus from a
// skipped test into a failed one.
const Require = "THAW_REQUIRE_CORPUS"

// Dir is the directory of the corpus: THAW_CORPUS, or shared/corpus beside the
// repository.
func Dir() string {
	if dir := os.Getenv("THAW_CORPUS"); dir != "" {
		return dir
	}
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "shared", "corpus")
}

// Need returns Dir. Without a corpus the test is skipped, or fails where
// THAW_REQUIRE_CORPUS is 1.
func Need(t testing.TB) string {
	t.Helper()
	dir := Dir()
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv(Require) == "1" {
			t.Fatalf("no corpus of public blueprints at %s; set THAW_CORPUS to its directory", dir)
		}
		t.Skipf("no corpus of public blueprints at %s; set THAW_CORPUS to its directory", dir)
	}
	return dir
}
