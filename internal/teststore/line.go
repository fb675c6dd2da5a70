package teststore

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Line is the network between a test and a store, which the test can cut: at
// once, or when so many more bytes have gone over it.
type Line struct {
	listener net.Listener
	to       string

	mu    sync.Mutex
	cut   bool
	stay  bool  // what follows when left is used up: stay cut
	left  int64 // bytes until then; negative: for ever
	conns map[net.Conn]bool
	cuts  int
}

func newLine(t testing.TB, host, to string) *Line {
	t.Helper()
	listener, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatalf("teststore: %v", err)
	}
	l := &Line{listener: listener, to: to, left: -1, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { listener.Close(); l.Cut() })
	go l.serve()
	return l
}

// Addr is where the line begins.
func (l *Line) Addr() string { return l.listener.Addr().String() }

func (l *Line) serve() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		go l.carry(c)
	}
}

func (l *Line) carry(client net.Conn) {
	defer client.Close()
	l.mu.Lock()
	cut, to := l.cut, l.to
	l.mu.Unlock()
	if cut {
		return
	}
	server, err := net.DialTimeout("tcp", to, 5*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.conns[client], l.conns[server] = true, true
	l.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.pass(server, client)
		server.Close()
		client.Close()
	}()
	l.pass(client, server)
	server.Close()
	client.Close()
	<-done
	l.mu.Lock()
	delete(l.conns, client)
	delete(l.conns, server)
	l.mu.Unlock()
}

func (l *Line) pass(to io.Writer, from io.Reader) {
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		n = l.take(n)
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil || n == 0 {
			return
		}
	}
}

// take counts bytes, and says how many of them may pass.
func (l *Line) take(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		return 0
	}
	if l.left < 0 {
		return n
	}
	if int64(n) < l.left {
		l.left -= int64(n)
		return n
	}
	n = int(l.left)
	l.left = -1
	l.cut = l.stay
	l.breakAll()
	return n
}

func (l *Line) breakAll() {
	l.cuts++
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, as networks break
		}
		c.Close()
	}
	clear(l.conns)
}

// Cut breaks every connection, and lets none be made until Mend.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	l.breakAll()
}

// Mend lets connections be made again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.left = false, -1
}

// Break breaks every connection once.
func (l *Line) Break() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breakAll()
}

// CutAfter cuts when n more bytes have passed, both ways together.
func (l *Line) CutAfter(n int64) { l.after(n, true) }

// BreakAfter breaks, once, when n more bytes have passed.
func (l *Line) BreakAfter(n int64) { l.after(n, false) }

func (l *Line) after(n int64, stay bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left, l.stay = n, stay
}

// Cuts is how often it was cut or broken.
func (l *Line) Cuts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cuts
}
