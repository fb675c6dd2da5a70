// Package databench measures how Thaw moves a database's files to an object
// store, beside restic, Kopia and a plain pipe. It has benchmarks alone, which
// `make bench-data` runs: real PostgreSQL files, a real store, and each program
// as a process of its own. Start with BenchmarkData.
package databench
