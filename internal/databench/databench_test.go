package databench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/internal/teststore"
)

// What the environment chooses: how many GiB, how often, where the files of the
// databases stay for the next run (default: they do not), and which programs.
const (
	envSize   = "THAW_BENCH_SIZE"
	envRounds = "THAW_BENCH_ROUNDS"
	envDir    = "THAW_BENCH_DIR"
	envTools  = "THAW_BENCH_TOOLS"
)

// The bars: of the first backup's throughput, of the bytes that the second one
// moves, and of the mover's memory.
const (
	firstOverRestic  = 1.2
	secondOverRestic = 0.4
	mostMemory       = 512 * mib
)

func setting(b *testing.B, name string, otherwise float64) float64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	f, err := strconv.ParseFloat(text, 64)
	require.NoError(b, err, "%s", name)
	return f
}

// place is a directory on the disk for a database's files and a store's: not
// where temporary files go, which may be memory.
func place(b *testing.B) (dir string, keep bool) {
	if dir := os.Getenv(envDir); dir != "" {
		return dir, true
	}
	dir, err := os.MkdirTemp("", "thaw-databench-")
	require.NoError(b, err)
	require.NoError(b, os.Chmod(dir, 0o755))
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir, false
}

// with starts a store of its own for a tool, and takes it away after use.
func with(b *testing.B, dir, name string, use func(c *counter, scratch string)) {
	at := filepath.Join(dir, "store-"+name)
	require.NoError(b, os.RemoveAll(at))
	require.NoError(b, os.MkdirAll(at, 0o755))
	defer func() { require.NoError(b, os.RemoveAll(at)) }()
	server := teststore.StartS3(b, teststore.S3Options{Dir: at})
	defer server.Stop()
	use(newCounter(b, server.Direct), at)
}

// result of a tool in a round.
type result struct{ first, second, restore cost }

// BenchmarkData backs up a database, changes one in a hundred of its pages, and
// backs it up again, with each program in turn.
func BenchmarkData(b *testing.B) {
	size := int64(setting(b, envSize, 10) * gib)
	rounds := int(setting(b, envRounds, 1))
	dir, _ := place(b)
	data := pgFiles(b, filepath.Join(dir, fmt.Sprintf("postgres-%d", size/mib)), size)
	names, _, total := files(b, data)
	for b.Loop() {
		all := map[string][]result{}
		pages := 0
		for range rounds {
			for _, t := range tools {
				if only := os.Getenv(envTools); only != "" && !slices.Contains(strings.Split(only, ","), t.name) {
					continue
				}
				with(b, dir, t.name, func(c *counter, scratch string) {
					var r result
					under := t.make(b, c, scratch)
					under.init(b, c, data)
					warm(b, data)
					r.first = c.run(b, under.save(data, "first"))
					pages = change(b, data)
					r.second = c.run(b, under.save(data, "last"))
					to := filepath.Join(scratch, "restored")
					r.restore = c.run(b, under.restore(data, to))
					if t.name == "thaw" {
						same(b.Context(), b, data, to)
					}
					all[t.name] = append(all[t.name], r)
				})
			}
		}
		b.Logf("%d files, %s MiB, of which %.0f %% cannot be compressed; %d pages changed; medians of %d", len(names), mibs(total), noise*100, pages, rounds)
		b.Log(table(all))
		report(b, all, total)
	}
	b.ReportMetric(0, "ns/op")
}

// middle is the median of what is asked of a tool's results.
func middle[T int64 | time.Duration](all []result, of func(result) T) T {
	var list []T
	for _, r := range all {
		list = append(list, of(r))
	}
	if len(list) == 0 {
		return 0
	}
	slices.Sort(list)
	return list[len(list)/2]
}

func firstWall(r result) time.Duration { return r.first.wall }
func firstCPU(r result) time.Duration  { return r.first.cpu }
func secondSent(r result) int64        { return r.second.sent }
func peak(r result) int64              { return max(r.first.rss, r.second.rss, r.restore.rss) }

func table(all map[string][]result) string {
	var s strings.Builder
	w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nprogram\tfirst: s\tCPU s\tsent MiB\tsecond: s\tCPU s\tsent MiB\trestore: s\tCPU s\tpeak MiB")
	for _, t := range tools {
		rs := all[t.name]
		if len(rs) == 0 {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", t.name,
			seconds(middle(rs, firstWall)), seconds(middle(rs, firstCPU)), mibs(middle(rs, func(r result) int64 { return r.first.sent })),
			seconds(middle(rs, func(r result) time.Duration { return r.second.wall })), seconds(middle(rs, func(r result) time.Duration { return r.second.cpu })), mibs(middle(rs, secondSent)),
			seconds(middle(rs, func(r result) time.Duration { return r.restore.wall })), seconds(middle(rs, func(r result) time.Duration { return r.restore.cpu })), mibs(middle(rs, peak)))
	}
	_ = w.Flush()
	return s.String()
}

// report gives the ratios, and fails where a bar is missed.
func report(b *testing.B, all map[string][]result, total int64) {
	ours := all["thaw"]
	if len(ours) == 0 {
		return
	}
	b.ReportMetric(float64(total)/mib/middle(ours, firstWall).Seconds(), "first-MiB/s")
	b.ReportMetric(float64(middle(ours, peak))/mib, "peak-MiB")
	for _, other := range []string{"restic", "kopia", "plain"} {
		theirs := all[other]
		if len(theirs) == 0 {
			continue
		}
		first := float64(middle(theirs, firstWall)) / float64(middle(ours, firstWall))
		cpu := float64(middle(theirs, firstCPU)) / float64(middle(ours, firstCPU))
		second := float64(middle(ours, secondSent)) / float64(middle(theirs, secondSent))
		b.ReportMetric(first, "first-throughput/"+other)
		b.ReportMetric(cpu, "first-per-CPU/"+other)
		b.ReportMetric(second, "second-bytes/"+other)
		if other == "restic" {
			if first < firstOverRestic {
				b.Errorf("the first backup has %.2f times restic's throughput: want %.1f", first, firstOverRestic)
			}
			if second > secondOverRestic {
				b.Errorf("the second backup moves %.2f of restic's bytes: want %.1f at most", second, secondOverRestic)
			}
		}
	}
	if m := middle(ours, peak); m > mostMemory {
		b.Errorf("the mover took %s MiB: want %d at most", mibs(m), mostMemory/mib)
	}
}

// BenchmarkMemory shows what the mover takes, by the size of what it moves.
func BenchmarkMemory(b *testing.B) {
	size := int64(setting(b, envSize, 10) * gib)
	dir, _ := place(b)
	data := pgFiles(b, filepath.Join(dir, fmt.Sprintf("postgres-%d", size/mib)), size)
	for b.Loop() {
		var s strings.Builder
		w := tabwriter.NewWriter(&s, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\nMiB\tfirst: peak MiB\tsecond: peak MiB\trestore: peak MiB")
		for _, share := range []int64{10, 2, 1} {
			of := data
			if share > 1 {
				of = part(b, data, share)
			}
			_, _, total := files(b, of)
			with(b, dir, "memory", func(c *counter, scratch string) {
				t := thaw(b, c, scratch)
				first := c.run(b, t.save(of, "first"))
				second := c.run(b, t.save(of, "last"))
				restore := c.run(b, t.restore(of, filepath.Join(scratch, "restored")))
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", mibs(total), mibs(first.rss), mibs(second.rss), mibs(restore.rss))
				most := max(first.rss, second.rss, restore.rss)
				b.ReportMetric(float64(most)/mib, "peak-MiB/"+mibs(size/share)+"MiB")
				if most > mostMemory {
					b.Errorf("the mover took %s MiB for %s MiB: want %d at most", mibs(most), mibs(total), mostMemory/mib)
				}
			})
			if of != data {
				require.NoError(b, os.RemoveAll(of))
			}
		}
		_ = w.Flush()
		b.Log(s.String())
	}
	b.ReportMetric(0, "ns/op")
}
