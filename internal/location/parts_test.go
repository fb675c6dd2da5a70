package location

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What docs/locations.md says of the memory that a stream takes.
func TestTheMemoryOfAStreamGrowsWithItsLength(t *testing.T) {
	const gib = 1 << 30
	limits := []struct{ length, memory int64 }{{54 * gib, 64 * mib}, {242 * gib, 256 * mib}, {492 * gib, 512 * mib}, {53 * gib * 1024 / 10, 1280 * mib}}
	sent, number := int64(0), 1
	for _, l := range limits {
		for ; sent < l.length; number++ {
			size := partSize(number, 0)
			require.LessOrEqual(t, size*int64(parallel(size)), l.memory, "part %d", number)
			sent += size
		}
	}
	require.LessOrEqual(t, number-1, maxParts)
}
