package testdb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
)

// Postgres is a private PostgreSQL server with one superuser.
type Postgres struct {
	Addr     string // host:port, on loopback
	Host     string
	Port     int
	User     string
	Password string
	Database string
	DataDir  string
	BinDir   string
	Account  string // system user that the server runs as
	Version  string
	Stop     []string // commands that stop and start it, for restores
	Start    []string
	DB       *sql.DB
	acc      account
}

// StartPostgres initialises and starts a server; it stops with the test. The
// data directory is in parent, where one is given.
func StartPostgres(t TB, parent ...string) *Postgres {
	t.Helper()
	initdb, ok := Binary("initdb")
	if !ok {
		missing(t, "PostgreSQL's initdb is not installed (Debian: postgresql)")
	}
	if real, err := filepath.EvalSymlinks(initdb); err == nil {
		initdb = real // the other programs are beside the real one
	}
	acc := accountFor(t, "postgres")
	root := first(parent)
	if root == "" {
		root = scratch(t)
	}
	p := &Postgres{
		Host: "127.0.0.1", Port: freePort(t), User: "thaw_admin", Password: "pg-Test-pa55", Database: "postgres",
		DataDir: acc.directory(t, root, "pgdata"), BinDir: filepath.Dir(initdb), Account: acc.name, acc: acc,
	}
	p.Addr = p.Host + ":" + strconv.Itoa(p.Port)

	pw := filepath.Join(acc.directory(t, root, "pgsecret"), "pw")
	if err := os.WriteFile(pw, []byte(p.Password), 0o600); err != nil {
		t.Fatalf("write password file: %v", err)
	}
	_ = os.Chown(pw, acc.uid, acc.gid)
	run(t, acc.command(initdb, "-D", p.DataDir, "-U", p.User, "--pwfile", pw, "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C", "--no-sync"))

	log := filepath.Join(root, "postgres.log")
	conf := fmt.Sprintf("\nlisten_addresses='127.0.0.1'\nport=%d\nunix_socket_directories=''\nmax_connections=50\nshared_buffers='32MB'\nwal_level=replica\nmax_wal_senders=4\nmax_replication_slots=4\nlogging_collector=off\n", p.Port)
	f, err := os.OpenFile(filepath.Join(p.DataDir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(conf)
		_ = f.Close()
	}
	if err != nil {
		t.Fatalf("configure PostgreSQL: %v", err)
	}
	ctl := filepath.Join(p.BinDir, "pg_ctl")
	prefix := []string{}
	if os.Geteuid() == 0 {
		runuser, ok := Binary("runuser")
		if !ok {
			t.Fatalf("runuser is not installed (Debian: util-linux)")
		}
		prefix = []string{runuser, "-u", acc.name, "--"}
	}
	p.Stop = append(append([]string{}, prefix...), ctl, "-D", p.DataDir, "-w", "-t", "60", "-m", "fast", "stop")
	p.Start = append(append([]string{}, prefix...), ctl, "-D", p.DataDir, "-w", "-t", "60", "-l", "/dev/null", "start")

	// The first start is a child of ours, so that its log tells of failures.
	proc := spawn(t, acc.command(filepath.Join(p.BinDir, "postgres"), "-D", p.DataDir), log)
	t.Cleanup(func() {
		proc.stop(syscall.SIGQUIT)
		// A restore may have started another one by pg_ctl.
		_ = acc.command(ctl, "-D", p.DataDir, "-m", "immediate", "stop").Run()
	})
	p.DB, err = sql.Open("pgx", fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable&application_name=testdb", p.User, p.Password, p.Addr, p.Database))
	if err != nil {
		t.Fatalf("open PostgreSQL: %v", err)
	}
	t.Cleanup(func() { _ = p.DB.Close() })
	if err := proc.await(func(ctx context.Context) error {
		return p.DB.QueryRowContext(ctx, "SHOW server_version").Scan(&p.Version)
	}); err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	return p
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Secret is the server's admin as a Kubernetes Secret would hold it.
func (p *Postgres) Secret() map[string][]byte {
	return map[string][]byte{"username": []byte(p.User), "password": []byte(p.Password), "sslmode": []byte("disable")}
}
