package keyfiles

import (
	"fmt"
	"os"
	"strings"

	"filippo.io/age"
)

// Passphrase is the key of Identity as workers use it: as the passphrase of
// repositories and of the seals of restore points.
func Passphrase(file string) (string, error) {
	id, err := Identity(file)
	if err != nil {
		return "", err
	}
	return id.String(), nil
}

// Identity reads the file of a worker's secretsKey, which age-keygen writes too.
// Errors: those of reading it, as they are; that it holds no key.
func Identity(file string) (*age.X25519Identity, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			// The parser's words could have a part of the key in them.
			return nil, fmt.Errorf("%s: its first line that is no comment is no key; want AGE-SECRET-KEY-1..., as a worker's secretsKey has it", file)
		}
		return id, nil
	}
	return nil, fmt.Errorf("%s: it holds no key; want a line AGE-SECRET-KEY-1..., as a worker's secretsKey has it", file)
}
