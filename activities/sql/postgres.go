package sql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"thaw/blueprints/fault"
)

// postgres speaks to PostgreSQL 14 and later: earlier ones cannot end an idle
// session by themselves (idle_session_timeout).
type postgres struct {
	target
	config *pgconn.Config
}

func newPostgres(t target) (*postgres, error) {
	host, port, err := net.SplitHostPort(t.address)
	if strings.HasPrefix(t.address, "/") { // a socket, or its directory
		host, port, err = t.address, "5432", nil
		if dir, file := filepath.Split(t.address); strings.HasPrefix(file, ".s.PGSQL.") {
			host, port = filepath.Clean(dir), strings.TrimPrefix(file, ".s.PGSQL.")
		}
	}
	if err != nil {
		return nil, fault.New(fault.User, "connect to postgres at %q: %w; give host:port, or a socket's path", t.address, err)
	}
	database := t.name
	if database == "" {
		database = "postgres"
	}
	sslmode := string(t.secret["sslmode"])
	ca := t.secret["ca"]
	if sslmode == "" {
		sslmode = "prefer"
		if len(ca) > 0 {
			sslmode = "verify-full"
		}
	}
	quote := func(s string) string {
		return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	parse := sslmode
	if len(ca) > 0 && sslmode != "disable" {
		parse = "require" // the bundle is in memory, libpq's way is a file
	}
	user := string(t.secret["username"])
	if user == "" {
		user = "postgres"
	}
	// Everything is given, so that no PG* variable of the worker has a say.
	c, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=%s passfile=/dev/null servicefile=/dev/null connect_timeout=10",
		quote(host), quote(port), quote(user), quote(database), quote(parse)))
	if err != nil {
		return nil, fault.New(fault.User, "connect to postgres at %s: settings: %w", t.address, err)
	}
	c.Password = string(t.secret["password"])
	if t.lookup != nil && !strings.HasPrefix(host, "/") {
		c.LookupFunc = t.lookup
	}
	if len(ca) > 0 && c.TLSConfig != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(ca) {
			return nil, fault.New(fault.User, "connect to postgres at %s: the secret's key ca holds no PEM certificate", t.address)
		}
		c.TLSConfig = &tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}
	}
	return &postgres{target: t, config: c}, nil
}

func (p *postgres) open(ctx context.Context, application string) (*postgresSession, error) {
	c := p.config.Copy()
	c.RuntimeParams = map[string]string{"application_name": application}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		kind := fault.Transient
		var pg *pgconn.PgError
		if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "3D000") {
			kind = fault.User // who or what: a retry says the same
		}
		return nil, fault.New(kind, "connect to postgres at %s: %w", p.address, err)
	}
	return &postgresSession{conn: conn}, nil
}

func (p *postgres) connect(ctx context.Context, readOnly bool) (session, error) {
	s, err := p.open(ctx, "thaw")
	if err != nil {
		return nil, err
	}
	if readOnly {
		if _, err := s.query(ctx, "SET default_transaction_read_only = on"); err != nil {
			s.close()
			return nil, fmt.Errorf("connect to postgres at %s: %w", p.address, err)
		}
	}
	return s, nil
}

type postgresSession struct {
	conn *pgconn.PgConn
	busy sync.Mutex // one statement at a time
}

func (s *postgresSession) query(ctx context.Context, q string) (result, error) {
	s.busy.Lock()
	defer s.busy.Unlock()
	results, err := s.conn.Exec(ctx, q).ReadAll()
	if err != nil {
		return result{}, postgresError(ctx, err)
	}
	var r result
	if len(results) == 0 {
		return r, nil
	}
	last := results[len(results)-1]
	r.rows = int64(len(last.Rows))
	for _, f := range last.FieldDescriptions {
		r.columns = append(r.columns, f.Name)
	}
	if r.rows == 0 {
		return r, nil
	}
	for i, v := range last.Rows[r.rows-1] {
		r.last = append(r.last, postgresValue(v, last.FieldDescriptions[i].DataTypeOID))
	}
	return r, nil
}

func postgresValue(v []byte, oid uint32) any {
	if v == nil {
		return nil
	}
	s := string(v)
	switch oid {
	case 16: // bool
		return s == "t"
	case 20, 21, 23, 26: // int8, int2, int4, oid
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i
		}
	}
	return s
}

func postgresError(ctx context.Context, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if pg.Code == "57P01" || pg.Code == "57P05" { // terminated; idle too long
			return fault.New(fault.Unknown, "the server ended the session: %s (SQLSTATE %s)", pg.Message, pg.Code)
		}
		text := pg.Message
		if pg.Hint != "" {
			text += "; " + pg.Hint
		}
		return fault.New(fault.Command, "%s (SQLSTATE %s)", text, pg.Code)
	}
	if ctx.Err() != nil {
		return fault.New(fault.Unknown, "%w; the statement may still run", context.Cause(ctx))
	}
	return fault.New(fault.Unknown, "the connection broke: %w", err)
}

// close says goodbye, unless a statement runs: then whoever ends the session
// on the server makes that statement return, and the connection closes.
func (s *postgresSession) close() {
	if !s.busy.TryLock() {
		return
	}
	defer s.busy.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.conn.Close(ctx)
}

type postgresHolder struct {
	*postgresSession
	db      *postgres
	control *postgresSession
	token   string
	max     time.Duration
	until   time.Time // the freeze's last moment
	pid     uint32
	started string // backend_start: with pid, one session for ever
}

func (p *postgres) holder(ctx context.Context, token string, maxFreeze time.Duration) (holder, error) {
	s, err := p.open(ctx, "thaw")
	if err != nil {
		return nil, err
	}
	h := &postgresHolder{postgresSession: s, db: p, token: token, max: maxFreeze, pid: s.conn.PID()}
	ok := false
	defer func() {
		if !ok {
			h.close()
		}
	}()
	r, err := s.query(ctx, "SELECT current_setting('server_version_num')::int8, pg_backend_pid()::int8, (SELECT backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid())")
	if err != nil {
		return nil, fmt.Errorf("prepare the session on postgres at %s: %w", p.address, err)
	}
	if version := r.last[0].(int64); version < 140000 {
		return nil, fault.New(fault.User, "postgres at %s is version %d: before 14 no session ends by itself when idle, so a freeze would have no end of its own", p.address, version)
	}
	h.pid = uint32(r.last[1].(int64))
	h.started, _ = r.last[2].(string)
	if h.control, err = p.open(ctx, "thaw control"); err != nil {
		return nil, err
	}
	ok = true
	return h, nil
}

func (h *postgresHolder) close() {
	h.postgresSession.close()
	if h.control != nil {
		h.control.close()
	}
}

func (h *postgresHolder) arm(ctx context.Context) error {
	h.until = time.Now().Add(h.max)
	left := h.max
	if d, ok := ctx.Deadline(); ok {
		left = max(time.Until(d), time.Millisecond)
	}
	_, err := h.query(ctx, fmt.Sprintf(
		"SET application_name = 'thaw:%s'; SET idle_session_timeout = %d; SET idle_in_transaction_session_timeout = %[2]d; SET statement_timeout = %d",
		h.token, max(h.max.Milliseconds(), 1), max(left.Milliseconds(), 1)))
	if err != nil {
		return fmt.Errorf("prepare the session: %w", err)
	}
	return nil
}

func (h *postgresHolder) mark(ctx context.Context) (mark, error) {
	// The server counts from here on; maxFreeze has run since before do.
	if _, err := h.query(ctx, fmt.Sprintf(
		"SET statement_timeout = 0; SET idle_session_timeout = %d; SET idle_in_transaction_session_timeout = %[1]d; SELECT set_config('thaw.since', clock_timestamp()::text, false)",
		max(time.Until(h.until).Milliseconds(), 1))); err != nil {
		return mark{}, fmt.Errorf("note the time of the freeze: %w", err)
	}
	return h.recall(ctx)
}

func (h *postgresHolder) recall(ctx context.Context) (mark, error) {
	r, err := h.query(ctx, `SELECT a.pid::text || '@' || a.backend_start::text, current_setting('thaw.since', true), a.application_name
		FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()`)
	if err != nil {
		return mark{}, err
	}
	if r.rows != 1 {
		return mark{}, fault.New(fault.Command, "pg_stat_activity does not show the session to itself")
	}
	who, _ := r.last[0].(string)
	since, _ := r.last[1].(string)
	if name, _ := r.last[2].(string); name != "thaw:"+h.token || since == "" {
		return mark{}, fault.New(fault.Command, "the session %s does not carry the freeze's token", who)
	}
	return mark{session: "postgres:" + who, since: since}, nil
}

func (h *postgresHolder) linger(ctx context.Context, d time.Duration) error {
	_, err := h.query(ctx, fmt.Sprintf("SET idle_session_timeout = %d; SET application_name = 'thaw lingering'", d.Milliseconds()))
	return err
}

func (h *postgresHolder) end(ctx context.Context) error {
	wait := patience
	if !h.busy.TryLock() {
		wait = 0 // a statement runs: it will not go by itself
	} else {
		h.busy.Unlock()
		h.postgresSession.close()
	}
	defer h.close()
	where := fmt.Sprintf("pid = %d AND backend_start::text = '%s'", h.pid, h.started)
	if _, err := terminate(ctx, h.control, where, wait); err == nil {
		return nil
	}
	// The control connection may be what broke.
	c, err := h.db.open(ctx, "thaw control")
	if err != nil {
		return err
	}
	defer c.close()
	_, err = terminate(ctx, c, where, wait)
	return err
}

func (p *postgres) sweep(ctx context.Context, token string) (bool, error) {
	c, err := p.open(ctx, "thaw control")
	if err != nil {
		return false, err
	}
	defer c.close()
	return terminate(ctx, c, fmt.Sprintf("application_name = 'thaw:%s'", token), 0)
}

// patience is how long a session that was closed may take to go by itself,
// before the server is told to end it (and logs that as an error).
const patience = 100 * time.Millisecond

// terminate ends the sessions of that condition and waits until they are gone.
func terminate(ctx context.Context, c session, where string, patience time.Duration) (found bool, err error) {
	start := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ask := "count(*)"
		if time.Since(start) >= patience {
			ask = "count(*) FILTER (WHERE pg_terminate_backend(pid))"
		}
		r, err := c.query(ctx, "SELECT count(*), "+ask+" FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND "+where)
		if err != nil {
			return found, fmt.Errorf("end the session: %w", err)
		}
		if r.last[0].(int64) == 0 {
			return found, nil
		}
		found = true
		select {
		case <-ctx.Done():
			return found, fault.New(fault.Transient, "end the session: asked the server, it is still there: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
