package databench

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	mrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"thaw/internal/testdb"
)

const (
	mib = 1 << 20
	gib = 1 << 30

	pageSize = 8 << 10
	// scaleUnit is what pgbench makes of one of its units, with its indexes.
	scaleUnit = 15 * mib
	// noise is the share of pages that cannot be compressed: databases hold
	// pictures, ciphers, compressed documents. pgbench's own rows are filler,
	// which any program compresses to nearly nothing.
	noise = 0.4
	// changed is the share of pages that change between two backups.
	changed = 0.01
)

// pgFiles is the data directory of a stopped PostgreSQL of that many bytes. It
// is made in dir once: a later run finds it.
func pgFiles(b *testing.B, dir string, size int64) string {
	data, done := filepath.Join(dir, "pgdata"), filepath.Join(dir, "done")
	if _, err := os.Stat(done); err == nil {
		return data
	}
	require.NoError(b, os.RemoveAll(dir))
	require.NoError(b, os.MkdirAll(dir, 0o755)) // the server's user goes through it
	pg := testdb.StartPostgres(b, dir)
	pgbench, ok := testdb.Binary("pgbench")
	if !ok {
		b.Skip("pgbench is not installed (Debian: postgresql)")
	}
	ctx := b.Context()
	// Unlogged: the log would be as large again, and is in no backup of a
	// database at rest.
	filler := int64(float64(size) * (1 - noise))
	cmd := exec.CommandContext(ctx, pgbench, "-i", "-q", "--unlogged-tables", "-s", strconv.FormatInt(max(filler/scaleUnit, 1), 10),
		"-h", pg.Host, "-p", strconv.Itoa(pg.Port), "-U", pg.User, pg.Database)
	cmd.Env = append(os.Environ(), "PGPASSWORD="+pg.Password)
	out, err := cmd.CombinedOutput()
	require.NoError(b, err, "%s", out)

	conn, err := pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", pg.User, pg.Password, pg.Addr, pg.Database))
	require.NoError(b, err)
	_, err = conn.Exec(ctx, "CREATE UNLOGGED TABLE documents (id BIGINT, body BYTEA)")
	require.NoError(b, err)
	_, err = conn.Exec(ctx, "ALTER TABLE documents ALTER body SET STORAGE EXTERNAL")
	require.NoError(b, err)
	const document = 64 << 10
	rows := int64(float64(size) * noise / (document * 1.06)) // and what TOAST adds
	id, body := int64(0), make([]byte, document)
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"documents"}, []string{"id", "body"}, pgx.CopyFromFunc(func() ([]any, error) {
		if id++; id > rows {
			return nil, nil
		}
		_, err := rand.Read(body)
		return []any{id, body}, err
	}))
	require.NoError(b, err)
	_, err = conn.Exec(ctx, "CHECKPOINT")
	require.NoError(b, err)
	require.NoError(b, conn.Close(ctx))
	require.NoError(b, pg.DB.Close())
	stop := exec.CommandContext(ctx, pg.Stop[0], pg.Stop[1:]...)
	stop.Dir = "/"
	out, err = stop.CombinedOutput()
	require.NoError(b, err, "%s", out)
	require.NoError(b, os.WriteFile(done, nil, 0o600))
	return data
}

// relation is the name of a file with a table's or an index's pages.
var relation = regexp.MustCompile(`^base/\d+/\d+(\.\d+)?$`)

// files of a directory, with their sizes, in the order of their names.
func files(b *testing.B, dir string) (names []string, sizes map[string]int64, total int64) {
	sizes = map[string]int64{}
	require.NoError(b, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		names, sizes[name] = append(names, name), info.Size()
		total += info.Size()
		return err
	}))
	return names, sizes, total
}

// change changes pages here and there, in place, as a server does that updates
// a row on each: the page's position in the log, and some bytes in it. Which
// pages is the same for every caller; what is written is not.
func change(b *testing.B, dir string) (pages int) {
	names, sizes, _ := files(b, dir)
	type page struct {
		name string
		at   int64
	}
	var all []page
	for _, n := range names {
		if !relation.MatchString(n) {
			continue
		}
		for at := int64(0); at+pageSize <= sizes[n]; at += pageSize {
			all = append(all, page{n, at})
		}
	}
	random := mrand.New(mrand.NewPCG(1, 2))
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	pages = int(float64(len(all)) * changed)
	open := map[string]*os.File{}
	for _, p := range all[:pages] {
		f := open[p.name]
		if f == nil {
			var err error
			f, err = os.OpenFile(filepath.Join(dir, p.name), os.O_WRONLY, 0)
			require.NoError(b, err)
			open[p.name] = f
		}
		const row = 120
		text := make([]byte, 8+row)
		_, err := rand.Read(text)
		require.NoError(b, err)
		_, err = f.WriteAt(text[:8], p.at)
		require.NoError(b, err)
		_, err = f.WriteAt(text[8:], p.at+24+int64(random.IntN(pageSize-24-row)))
		require.NoError(b, err)
	}
	for _, f := range open {
		require.NoError(b, f.Close())
	}
	return pages
}

// part is a directory with the same share of each file of another's.
func part(b *testing.B, dir string, share int64) string {
	to := filepath.Join(filepath.Dir(dir), "part")
	require.NoError(b, os.RemoveAll(to))
	names, sizes, _ := files(b, dir)
	for _, n := range names {
		require.NoError(b, os.MkdirAll(filepath.Dir(filepath.Join(to, n)), 0o755))
		from, err := os.Open(filepath.Join(dir, n))
		require.NoError(b, err)
		f, err := os.Create(filepath.Join(to, n))
		require.NoError(b, err)
		_, err = io.CopyN(f, from, sizes[n]/pageSize/share*pageSize)
		require.NoError(b, err)
		require.NoError(b, f.Close())
		require.NoError(b, from.Close())
	}
	return to
}

// warm reads all files, so that none is first on a cold cache.
func warm(b *testing.B, dir string) {
	names, _, _ := files(b, dir)
	buf := make([]byte, mib)
	for _, n := range names {
		f, err := os.Open(filepath.Join(dir, n))
		require.NoError(b, err)
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
		require.NoError(b, err)
		require.NoError(b, f.Close())
	}
}

// same compares two directories byte for byte.
func same(ctx context.Context, b *testing.B, one, other string) {
	out, err := exec.CommandContext(ctx, "diff", "-r", "--no-dereference", one, other).CombinedOutput()
	require.NoError(b, err, "%s", out)
}
