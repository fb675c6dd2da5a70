package wait

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"thaw/blueprints/fault"
)

// hostCondition is on a file, a port or an address of the worker's host.
type hostCondition struct {
	File   string `arg:"file"`
	Absent string `arg:"absent"`
	TCP    string `arg:"tcp"`
	HTTP   string `arg:"http"`
}

func (c hostCondition) check() error {
	given := 0
	for _, s := range []string{c.File, c.Absent, c.TCP, c.HTTP} {
		if s != "" {
			given++
		}
	}
	if given != 1 {
		return fault.New(fault.User, "a condition is exactly one of file, absent, tcp, http, or condition with objectReference")
	}
	return nil
}

func (c hostCondition) unmet(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	switch {
	case c.File != "":
		if _, err := os.Stat(c.File); err != nil {
			return err.Error()
		}
	case c.Absent != "":
		if _, err := os.Lstat(c.Absent); err == nil {
			return c.Absent + " is still there"
		}
	case c.TCP != "":
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.TCP)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
	case c.HTTP != "":
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.HTTP, nil)
		if err != nil {
			return err.Error()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return c.HTTP + ": " + resp.Status
		}
	}
	return ""
}
