package host

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                               nil,
		"  /bin/systemctl  stop\tmysql ": {"/bin/systemctl", "stop", "mysql"},
		`/bin/sh -c "a 'b' $c" ''`:       {"/bin/sh", "-c", "a 'b' $c", ""},
		`a\ b 'c\d'`:                     {"a b", `c\d`},
	} {
		got, err := splitWords(line)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, line := range []string{`a "b`, `a 'b`, `a\`} {
		_, err := splitWords(line)
		require.Error(t, err, line)
	}
}
