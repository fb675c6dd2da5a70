package databench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counter is the network between a program and the store. It counts what the
// program sends, and copies in the kernel, so as to cost little.
type counter struct {
	listener net.Listener
	to       string
	sent     atomic.Int64
	running  sync.WaitGroup
}

func newCounter(b *testing.B, to string) *counter {
	listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
	require.NoError(b, err)
	c := &counter{listener: listener, to: to}
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			c.running.Go(func() { c.carry(client) })
		}
	}()
	return c
}

func (c *counter) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(client, server)
		_ = client.Close()
	}()
	n, _ := io.Copy(server, client)
	c.sent.Add(n)
	_ = server.Close()
	<-done
}

func (c *counter) addr() string { return c.listener.Addr().String() }

// cost of one run of a program.
type cost struct {
	wall time.Duration
	cpu  time.Duration // of the program and its children, not of the store
	sent int64         // bytes to the store
	rss  int64         // bytes at its peak, of the largest process
}

// program is how one is run.
type program struct {
	args  []string
	env   []string
	stdin []byte
}

// run runs a program to its end, and fails with what it said where it fails.
func (c *counter) run(b *testing.B, p program) cost {
	b.Helper()
	syscall.Sync() // what others have written is not written while this one runs
	before := c.sent.Load()
	cmd := exec.CommandContext(b.Context(), p.args[0], p.args[1:]...)
	cmd.Env, cmd.Stdin = append(environment(), p.env...), bytes.NewReader(p.stdin)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	start := time.Now()
	err := cmd.Run()
	wall := time.Since(start)
	require.NoError(b, err, "%s: %s", p.args[0], said.Bytes()[max(0, said.Len()-4000):])
	c.running.Wait() // its connections are counted when they end
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	return cost{
		wall: wall, cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(),
		sent: c.sent.Load() - before, rss: usage.Maxrss << 10,
	}
}

// environment is this one without what would change a client.
func environment() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "AWS_") && !strings.HasPrefix(kv, "RESTIC_") && !strings.HasPrefix(kv, "KOPIA_") {
			env = append(env, kv)
		}
	}
	return env
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func mibs(n int64) string { return fmt.Sprintf("%d", n/mib) }
