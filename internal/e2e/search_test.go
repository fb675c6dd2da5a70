package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pieceLength is how much of a secret may not be found anywhere. Whole secrets
// would not do: a text that is cut holds the half of one.
const pieceLength = 16

// search finds pieces of what was planted: as they are, in base64 wherever it
// begins, and in hex. Other spellings (URLs, JSON) leave most of a secret as it
// is.
type search struct {
	pieces  map[[pieceLength]byte]string
	planted map[string]string
}

func newSearch() *search {
	return &search{pieces: map[[pieceLength]byte]string{}, planted: map[string]string{}}
}

// plant makes a secret: random, among characters that others escape.
func (s *search) plant(name string) string {
	core := hex.EncodeToString(random(20))
	s.learn(name, core)
	s.planted[name] = "k/+&=%<" + core + ">?#@;z"
	return s.planted[name]
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it does not fail
	return b
}

func (s *search) learn(name, core string) {
	forms := []string{core, hex.EncodeToString([]byte(core)), strings.ToUpper(hex.EncodeToString([]byte(core)))}
	for before := range 3 {
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			text := enc.EncodeToString(append(make([]byte, before), core...))
			forms = append(forms, text[(before*8+5)/6:(before+len(core))*8/6])
		}
	}
	for _, f := range forms {
		for i := 0; i+pieceLength <= len(f); i++ {
			s.pieces[[pieceLength]byte([]byte(f[i:]))] = name
		}
	}
}

// find lists what is found in a text, each with what stands around it.
func (s *search) find(b []byte) (found []string) {
	last := ""
	for i := 0; i+pieceLength <= len(b); i++ {
		name, ok := s.pieces[[pieceLength]byte(b[i:])]
		if ok && name != last {
			found = append(found, name+" in "+string(bytes.ToValidUTF8(b[max(0, i-60):min(len(b), i+60)], nil)))
			last = name
		}
	}
	return found
}

// tree searches every file under a directory.
func (s *search) tree(t *testing.T, dir string, skip func(path string) bool) (found []string, read int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || (skip != nil && skip(path)) {
			return err
		}
		b, err := os.ReadFile(path)
		read += len(b)
		for _, f := range s.find(b) {
			found = append(found, path+": "+f)
		}
		return err
	}))
	return found, read
}

// A search that finds nothing must be one that could.
func TestSearchFinds(t *testing.T) {
	s := newSearch()
	secret := s.plant("x")
	tests := []struct {
		name, text string
		found      bool
	}{
		{"nothing", "said ******** and " + hex.EncodeToString(random(40)), false},
		{"the secret", "said " + secret + ".", true},
		{"its first half", secret[:len(secret)/2+1], true},
		{"its last half", secret[len(secret)/2-2:], true},
		{"base64", base64.StdEncoding.EncodeToString([]byte(secret)), true},
		{"base64 of more", base64.RawURLEncoding.EncodeToString([]byte("user:" + secret)), true},
		{"base64 of still more", base64.StdEncoding.EncodeToString([]byte("user: " + secret)), true},
		{"a line of base64", base64.StdEncoding.EncodeToString([]byte(secret))[20:40], true},
		{"hex", hex.EncodeToString([]byte(secret)), true},
		{"HEX", strings.ToUpper(hex.EncodeToString([]byte(secret))), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.found, len(s.find([]byte(tt.text))) > 0) })
	}
}
