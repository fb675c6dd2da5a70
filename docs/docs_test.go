// Package docs tests the documentation: what it shows must be right.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
)

var (
	fenced = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	header = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	require.NoError(t, err)
	texts := map[string]string{}
	for _, f := range append(files, "../README.md", "../CHANGELOG.md") {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		texts[f] = string(b)
	}
	return texts
}

// Blueprints that are shown are clean, without a warning.
func TestBlueprintsOfThePages(t *testing.T) {
	found := 0
	for file, text := range pages(t) {
		for _, m := range fenced.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(m[1], "kind: Blueprint") {
				continue
			}
			found++
			bp, faults := blueprints.Parse(file, []byte(m[1]))
			require.NoError(t, faults.Err(), m[1])
			assert.Empty(t, append(faults, blueprints.Lint(bp, catalogue.Default())...), m[1])
		}
	}
	assert.GreaterOrEqual(t, found, 2)
}

// Links lead somewhere: to a file, and to a heading of it.
func TestLinksOfThePages(t *testing.T) {
	texts := pages(t)
	for file, text := range texts {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to, anchor, _ := strings.Cut(m[1], "#")
			target := file
			if to != "" {
				target = filepath.Join(filepath.Dir(file), to)
				assert.FileExists(t, target, "%s: %s", file, m[1])
			}
			if anchor != "" {
				assert.Contains(t, anchors(t, target), anchor, "%s: %s", file, m[1])
			}
		}
	}
}

// anchors are the headings of a page as GitHub links them.
func anchors(t *testing.T, file string) (list []string) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, m := range header.FindAllStringSubmatch(string(b), -1) {
		slug := strings.ToLower(regexp.MustCompile("[^A-Za-z0-9 _-]").ReplaceAllString(m[1], ""))
		list = append(list, strings.ReplaceAll(slug, " ", "-"))
	}
	return list
}
