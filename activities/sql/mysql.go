package sql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	driver "github.com/go-sql-driver/mysql"

	"thaw/blueprints/fault"
)

// mysql speaks to MySQL and MariaDB.
type mysql struct {
	target
	config *driver.Config
	within time.Duration // that the server must let a session in
}

func newMySQL(t target) (*mysql, error) {
	c := driver.NewConfig()
	c.User, c.Passwd = string(t.secret["username"]), string(t.secret["password"])
	if c.User == "" {
		c.User = "root"
	}
	c.DBName = t.name
	c.Logger = log.New(io.Discard, "", 0) // what matters is in the errors
	c.Net, c.Addr = "tcp", t.address
	host, _, err := net.SplitHostPort(t.address)
	if strings.HasPrefix(t.address, "/") {
		c.Net, err = "unix", nil
	}
	if err != nil {
		return nil, fault.New(fault.User, "connect to mysql at %q: %w; give host:port, or a socket's path", t.address, err)
	}
	if t.lookup != nil && c.Net == "tcp" {
		c.DialFunc = t.dial
	}
	mode, ca := string(t.secret["sslmode"]), t.secret["ca"]
	switch {
	case c.Net == "unix" || mode == "disable":
	case len(ca) > 0:
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, fault.New(fault.User, "connect to mysql at %s: the secret's key ca holds no PEM certificate", t.address)
		}
		c.TLS = &tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}
	case mode == "" || mode == "prefer":
		c.TLSConfig = "preferred"
	case mode == "require":
		c.TLSConfig = "skip-verify"
	case mode == "verify-full" || mode == "verify-ca":
		c.TLSConfig = "true"
	default:
		return nil, fault.New(fault.User, "connect to mysql at %s: the secret's key sslmode is none of disable, prefer, require, verify-ca, verify-full", t.address)
	}
	return &mysql{target: t, config: c, within: 10 * time.Second}, nil
}

// dial tries the addresses that the lookup gives, in turn.
func (t target) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := t.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	err = fmt.Errorf("%s has no address", host)
	for _, a := range addresses {
		var conn net.Conn
		if conn, err = (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(a, port)); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func (m *mysql) open(ctx context.Context) (*mysqlSession, error) {
	connector, err := driver.NewConnector(m.config.Clone())
	if err != nil {
		return nil, fault.New(fault.User, "connect to mysql at %s: settings: %w", m.address, err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	// The driver's own time-out is of the dialling alone: a server that went
	// away after it would be waited for as long as the context lasts, and a
	// thaw has better to do.
	own, cancel := context.WithTimeoutCause(ctx, m.within, fmt.Errorf("the server did not let a session in within %s", m.within))
	defer cancel()
	conn, err := db.Conn(own)
	if err != nil {
		_ = db.Close()
		if own.Err() != nil && ctx.Err() == nil {
			err = context.Cause(own)
		}
		kind := fault.Transient
		var e *driver.MySQLError
		if errors.As(err, &e) && (e.Number == 1045 || e.Number == 1044 || e.Number == 1049 || e.Number == 1698) {
			kind = fault.User
		}
		return nil, fault.New(kind, "connect to mysql at %s: %w", m.address, err)
	}
	return &mysqlSession{db: db, conn: conn}, nil
}

func (m *mysql) connect(ctx context.Context, readOnly bool) (session, error) {
	s, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	if readOnly {
		if _, err := s.query(ctx, "SET SESSION TRANSACTION READ ONLY"); err != nil {
			s.close()
			return nil, fmt.Errorf("connect to mysql at %s: %w", m.address, err)
		}
	}
	return s, nil
}

// mysqlSession is one connection: database/sql never replaces a sql.Conn's.
type mysqlSession struct {
	db   *sql.DB
	conn *sql.Conn
	busy sync.Mutex // one statement at a time
}

func (s *mysqlSession) query(ctx context.Context, q string) (result, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	rows, err := s.conn.QueryContext(ctx, q)
	if err != nil {
		return result{}, mysqlError(ctx, err)
	}
	defer rows.Close()
	var r result
	types, err := rows.ColumnTypes()
	if err != nil {
		return result{}, mysqlError(ctx, err)
	}
	r.columns, _ = rows.Columns()
	values := make([]any, len(types))
	into := make([]any, len(types))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return result{}, mysqlError(ctx, err)
		}
		r.rows++
		r.last = r.last[:0]
		for i, v := range values {
			r.last = append(r.last, mysqlValue(v, types[i].DatabaseTypeName()))
		}
	}
	if err := rows.Err(); err != nil {
		return result{}, mysqlError(ctx, err)
	}
	return r, nil
}

func mysqlValue(v any, typ string) any {
	switch x := v.(type) {
	case nil, int64:
		return x
	case []byte:
		if strings.Contains(typ, "INT") {
			if i, err := strconv.ParseInt(string(x), 10, 64); err == nil {
				return i
			}
		}
		return string(x)
	case time.Time:
		return x.UTC().Format(time.RFC3339Nano)
	default:
		return fmt.Sprint(x)
	}
}

func mysqlError(ctx context.Context, err error) error {
	var e *driver.MySQLError
	if errors.As(err, &e) {
		return fault.New(fault.Command, "%s (error %d)", e.Message, e.Number)
	}
	if ctx.Err() != nil {
		return fault.New(fault.Unknown, "%w; the statement may still run", context.Cause(ctx))
	}
	return fault.New(fault.Unknown, "the connection broke, or the server ended the session: %w", err)
}

// close says goodbye, unless a statement runs: then whoever ends the session
// on the server makes that statement return.
func (s *mysqlSession) close() {
	if !s.busy.TryLock() {
		return
	}
	defer s.busy.Unlock()
	_ = s.conn.Close()
	_ = s.db.Close()
}

type mysqlHolder struct {
	*mysqlSession
	db      *mysql
	control *mysqlSession
	token   string
	max     time.Duration
	until   time.Time // the freeze's last moment
	id      int64
	name    string // the session's: never given again, server restarts included
	mariadb bool
}

func (m *mysql) holder(ctx context.Context, token string, maxFreeze time.Duration) (holder, error) {
	s, err := m.open(ctx)
	if err != nil {
		return nil, err
	}
	h := &mysqlHolder{mysqlSession: s, db: m, token: token, max: maxFreeze}
	ok := false
	defer func() {
		if !ok {
			h.close()
		}
	}()
	r, err := s.query(ctx, "SELECT CONNECTION_ID(), CONCAT(@@hostname, ':', @@port), VERSION(), UNIX_TIMESTAMP()")
	if err != nil {
		return nil, fmt.Errorf("prepare the session on mysql at %s: %w", m.address, err)
	}
	up, err := s.query(ctx, "SHOW GLOBAL STATUS LIKE 'Uptime'")
	if err != nil {
		return nil, fmt.Errorf("prepare the session on mysql at %s: %w", m.address, err)
	}
	h.id, _ = r.last[0].(int64)
	version, _ := r.last[2].(string)
	h.mariadb = strings.Contains(strings.ToLower(version), "mariadb")
	now, _ := r.last[3].(int64)
	uptime := int64(0)
	if up.rows == 1 {
		uptime, _ = strconv.ParseInt(fmt.Sprint(up.last[1]), 10, 64)
	}
	if h.id == 0 {
		return nil, fault.New(fault.Unknown, "prepare the session on mysql at %s: the server gave no connection id", m.address)
	}
	h.name = fmt.Sprintf("mysql:%d@%s/%s", h.id, r.last[1], time.Unix(now-uptime, 0).UTC().Format(time.RFC3339))
	if h.control, err = m.open(ctx); err != nil {
		return nil, err
	}
	ok = true
	return h, nil
}

func (h *mysqlHolder) close() {
	h.mysqlSession.close()
	if h.control != nil {
		h.control.close()
	}
}

func (h *mysqlHolder) lock() string { return "thaw:" + h.token }

func (h *mysqlHolder) arm(ctx context.Context) error {
	h.until = time.Now().Add(h.max)
	left := h.max
	if d, ok := ctx.Deadline(); ok {
		left = min(left, max(time.Until(d), time.Second))
	}
	// wait_timeout is the end of its own: the server ends a session that has
	// been idle for so long. Hence the session is never pinged. Rounded down:
	// no freeze outlives maxFreeze.
	set := fmt.Sprintf("SET SESSION wait_timeout = %d, SESSION lock_wait_timeout = %d",
		max(1, int(h.max.Seconds())), max(1, int(left.Seconds())))
	if h.mariadb { // bounds every statement there; MySQL has it for SELECT only
		set += fmt.Sprintf(", SESSION max_statement_time = %.3f", left.Seconds())
	}
	if _, err := h.query(ctx, set); err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	r, err := h.query(ctx, fmt.Sprintf("SELECT GET_LOCK('%s', 0)", h.lock()))
	if err != nil {
		return fmt.Errorf("mark the session: %w", err)
	}
	if !r.truth() {
		return fault.New(fault.Command, "mark the session: another session holds this freeze's token")
	}
	return nil
}

func (h *mysqlHolder) mark(ctx context.Context) (mark, error) {
	// The server counts from here on; maxFreeze has run since before do.
	set := fmt.Sprintf("SET @thaw_since = CAST(SYSDATE(6) AS CHAR), @thaw_session = '%s', SESSION wait_timeout = %d",
		h.name, max(1, int(time.Until(h.until).Round(time.Second).Seconds())))
	if h.mariadb {
		set += ", SESSION max_statement_time = 0"
	}
	if _, err := h.query(ctx, set); err != nil {
		return mark{}, fmt.Errorf("note the time of the freeze: %w", err)
	}
	return h.recall(ctx)
}

func (h *mysqlHolder) recall(ctx context.Context) (mark, error) {
	r, err := h.query(ctx, fmt.Sprintf("SELECT @thaw_session, @thaw_since, CONNECTION_ID() = IS_USED_LOCK('%s')", h.lock()))
	if err != nil {
		return mark{}, err
	}
	who, _ := r.last[0].(string)
	since, _ := r.last[1].(string)
	if mine, _ := r.last[2].(int64); mine != 1 || who == "" || since == "" {
		return mark{}, fault.New(fault.Command, "the session %s does not carry the freeze's token", h.name)
	}
	return mark{session: who, since: since}, nil
}

func (h *mysqlHolder) linger(ctx context.Context, d time.Duration) error {
	_, err := h.query(ctx, fmt.Sprintf("SET SESSION wait_timeout = %d", max(1, int(d.Seconds()))))
	if err == nil {
		_, err = h.query(ctx, fmt.Sprintf("DO RELEASE_LOCK('%s')", h.lock()))
	}
	return err
}

// end asks by the control connection, which is as old as the session: a
// connection id means nothing on a server that was restarted since. Where that
// connection broke, it asks for the token instead.
func (h *mysqlHolder) end(ctx context.Context) error {
	h.mysqlSession.close()
	defer h.close()
	if err := kill(ctx, h.control, h.id); err == nil {
		return nil
	}
	_, err := h.db.sweep(ctx, h.token)
	return err
}

func (m *mysql) sweep(ctx context.Context, token string) (bool, error) {
	c, err := m.open(ctx)
	if err != nil {
		return false, err
	}
	defer c.close()
	r, err := c.query(ctx, fmt.Sprintf("SELECT IS_USED_LOCK('thaw:%s')", token))
	if err != nil {
		return false, fmt.Errorf("find the session of freeze %s: %w", token, err)
	}
	id, held := r.first().(int64)
	if !held {
		return false, nil
	}
	return true, kill(ctx, c, id)
}

// kill ends a session and waits until it is gone, and its locks with it.
func kill(ctx context.Context, c session, id int64) error {
	start := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		r, err := c.query(ctx, fmt.Sprintf("SELECT COUNT(*), MAX(COMMAND) FROM information_schema.PROCESSLIST WHERE ID = %d", id))
		if err != nil {
			return fmt.Errorf("end session %d: %w", id, err)
		}
		if n, _ := r.first().(int64); n == 0 {
			return nil
		}
		// One that was closed goes by itself, most often at once.
		if command, _ := r.last[1].(string); command != "Killed" && (command != "Sleep" || time.Since(start) > patience/2) {
			if _, err := c.query(ctx, fmt.Sprintf("KILL %d", id)); err != nil && !strings.Contains(err.Error(), "1094") {
				return fmt.Errorf("end session %d: %w", id, err)
			}
		}
		select {
		case <-ctx.Done():
			return fault.New(fault.Transient, "end session %d: asked the server, it is still there: %w", id, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
