package testcluster

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"thaw/activities/cluster"
)

// Line is a worker's network to its API server, which a test can cut.
type Line struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

// Through returns the cluster as it is seen over a line.
func Through(t testing.TB, c *cluster.Cluster) (*cluster.Cluster, *Line) {
	t.Helper()
	u, err := url.Parse(c.Rest.Host)
	require.NoError(t, err)
	l := &Line{to: u.Host, conns: map[net.Conn]bool{}}
	l.listener, err = net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.listener.Close(); l.Cut() })
	go l.serve()
	rc := rest.CopyConfig(c.Rest)
	rc.Host = "https://" + l.listener.Addr().String()
	if rc.ServerName == "" {
		rc.ServerName = u.Hostname()
	}
	over, err := cluster.New(rc, c.Namespace)
	require.NoError(t, err)
	return over, l
}

func (l *Line) serve() {
	for {
		conn, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.carry(conn)
	}
}

func (l *Line) carry(conn net.Conn) {
	server, err := net.DialTimeout("tcp", l.to, 10*time.Second)
	if err != nil {
		conn.Close()
		return
	}
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		conn.Close()
		server.Close()
		return
	}
	l.conns[conn], l.conns[server] = true, true
	l.mu.Unlock()
	go func() { _, _ = io.Copy(server, conn); server.Close(); conn.Close() }()
	_, _ = io.Copy(conn, server)
	server.Close()
	conn.Close()
	l.mu.Lock()
	delete(l.conns, conn)
	delete(l.conns, server)
	l.mu.Unlock()
}

// Cut breaks every connection, and lets none be made.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for c := range l.conns {
		c.Close()
	}
}

// Break breaks every connection; new ones can be made.
func (l *Line) Break() {
	l.Cut()
	l.Mend()
}

// Mend lets connections be made again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}
