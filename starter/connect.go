package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
)

// connect dials the Temporal that the environment or a profile names, or the
// embedded one.
func connect(ctx context.Context) (client.Client, error) {
	o, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, fmt.Errorf("configuration of Temporal: %w", err)
	}
	hint := "is it up? see TEMPORAL_ADDRESS"
	if o.HostPort == "" {
		hint = "start one with: thaw dev"
		if d, err := readDev(); err == nil {
			o.HostPort = d.Address
		}
	}
	o.Logger = log.NewStructuredLogger(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := client.DialContext(ctx, o)
	if err != nil {
		address := o.HostPort
		if address == "" {
			address = client.DefaultHostPort
		}
		return nil, fmt.Errorf("no Temporal at %s (%s): %w", address, hint, err)
	}
	return c, nil
}

// withTemporal is a command that talks to Temporal.
func withTemporal(run func(cmd *cobra.Command, c client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := connect(cmd.Context())
		if err != nil {
			return err
		}
		defer c.Close()
		return run(cmd, c, args)
	}
}

// dev is what a running `thaw dev` says of itself.
type dev struct {
	Address  string `json:"address"`
	UI       string `json:"ui,omitempty"`
	PID      int    `json:"pid"`
	Worker   int    `json:"worker,omitempty"` // pid
	Location string `json:"location,omitempty"`
}

// dataDir is where `thaw dev` keeps its data (XDG base directories).
func dataDir() string {
	if d := os.Getenv("THAW_DEV_DIR"); d != "" {
		return d
	}
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		return filepath.Join(d, "thaw")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "share", "thaw")
}

func readDev() (*dev, error) {
	b, err := os.ReadFile(filepath.Join(dataDir(), "dev.json"))
	if err != nil {
		return nil, err
	}
	var d dev
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, err
	}
	return &d, nil
}
