package testdb

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	_ "github.com/go-sql-driver/mysql" // driver "mysql"
)

// MariaDB is a private MariaDB server.
type MariaDB struct {
	Addr     string // host:port, on loopback
	Host     string
	Port     int
	Socket   string
	User     string
	Password string
	Database string
	DataDir  string
	Account  string
	Version  string
	Args     []string // command that starts it
	DB       *sql.DB
	acc      account
	proc     *process
	log      string
}

// StartMariaDB initialises and starts a server; it stops with the test. The
// data directory is in parent, where one is given (see Btrfs).
func StartMariaDB(t TB, parent ...string) *MariaDB {
	t.Helper()
	mariadbd, ok := Binary("mariadbd")
	install, ok2 := Binary("mariadb-install-db")
	if !ok || !ok2 {
		missing(t, "MariaDB's mariadbd and mariadb-install-db are not installed (Debian: mariadb-server)")
	}
	acc := accountFor(t, "mysql")
	root := first(parent)
	own := scratch(t)
	if root == "" {
		root = own
	}
	m := &MariaDB{
		Host: "127.0.0.1", Port: freePort(t), User: "thaw_admin", Password: "my-Test-pa55", Database: "shop",
		DataDir: acc.directory(t, root, "mysql"), Account: acc.name, acc: acc,
	}
	m.Addr = m.Host + ":" + strconv.Itoa(m.Port)
	run(t, acc.command(install, "--no-defaults", "--datadir="+m.DataDir, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"))

	dir := acc.directory(t, own, "run")
	m.Socket = filepath.Join(dir, "s")
	initFile := filepath.Join(dir, "init.sql")
	script := fmt.Sprintf("CREATE USER IF NOT EXISTS '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'%%' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS %s;\n",
		m.User, m.Password, m.User, m.Database)
	if err := os.WriteFile(initFile, []byte(script), 0o644); err != nil {
		t.Fatalf("write %s: %v", initFile, err)
	}
	m.log = filepath.Join(dir, "log")
	m.Args = []string{mariadbd, "--no-defaults", "--datadir=" + m.DataDir, "--bind-address=127.0.0.1", "--port=" + strconv.Itoa(m.Port),
		"--socket=" + m.Socket, "--pid-file=" + filepath.Join(dir, "pid"), "--init-file=" + initFile,
		"--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=1", "--skip-name-resolve", "--skip-log-bin"}
	m.start(t)
	t.Cleanup(func() { _ = m.DB.Close(); m.StopServer() })
	return m
}

func (m *MariaDB) start(t TB) {
	t.Helper()
	m.proc = spawn(t, m.acc.command(m.Args[0], m.Args[1:]...), m.log)
	if m.DB == nil {
		db, err := sql.Open("mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s", m.User, m.Password, m.Addr, m.Database))
		if err != nil {
			t.Fatalf("open MariaDB: %v", err)
		}
		m.DB = db
	}
	if err := m.proc.await(func(ctx context.Context) error { return m.DB.QueryRowContext(ctx, "SELECT VERSION()").Scan(&m.Version) }); err != nil {
		t.Fatalf("start MariaDB: %v", err)
	}
}

// StopServer shuts it down; StartServer starts it again on the same data.
func (m *MariaDB) StopServer() { m.proc.stop(syscall.SIGTERM) }

// StartServer starts it after StopServer.
func (m *MariaDB) StartServer(t TB) { t.Helper(); m.start(t) }

// KillServer ends it as a crash would.
func (m *MariaDB) KillServer() { m.proc.stop(syscall.SIGKILL) }

// Secret is the server's admin as a Kubernetes Secret would hold it.
func (m *MariaDB) Secret() map[string][]byte {
	return map[string][]byte{"username": []byte(m.User), "password": []byte(m.Password)}
}

// Btrfs mounts a fresh btrfs in a file; it goes with the test. Snapshots there
// are atomic.
func Btrfs(t TB) string {
	t.Helper()
	mkfs, ok := Binary("mkfs.btrfs")
	if !ok {
		missing(t, "mkfs.btrfs is not installed (Debian: btrfs-progs)")
	}
	if os.Geteuid() != 0 {
		missing(t, "mounting btrfs needs root")
	}
	dir := scratch(t)
	image, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatalf("make %s: %v", image, err)
	}
	if err := os.Truncate(image, 2<<30); err != nil { // sparse
		t.Fatalf("make %s: %v", image, err)
	}
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatalf("make %s: %v", mnt, err)
	}
	run(t, exec.Command(mkfs, "-q", image))
	if out, err := exec.Command("mount", "-o", "loop", image, mnt).CombinedOutput(); err != nil {
		missing(t, "mount btrfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Logf("umount %s: %v: %s", mnt, err, out)
			_ = exec.Command("umount", "-l", mnt).Run()
		}
	})
	return mnt
}
