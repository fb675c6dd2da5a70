// Command kando is in the images whose containers take part in a backup. It
// stands for Kanister's tool of that name, with its flags and output, so that
// the scripts of public blueprints run as they are; and it moves data for
// Thaw's workers (kando data).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"thaw/blueprints/fault"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends it at once
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "kando:", err)
		var code *exitError
		if errors.As(err, &code) {
			os.Exit(code.code)
		}
		os.Exit(1)
	}
}

// exitError is an error with an exit code of its own.
type exitError struct {
	error
	code int
}

func (e *exitError) Unwrap() error { return e.error }

func root() *cobra.Command {
	c := &cobra.Command{
		Use: "kando", Short: "Move data and hand on outputs, in a container of a backup",
		Version: version(), SilenceUsage: true, SilenceErrors: true,
	}
	c.PersistentFlags().StringP(verbosity, "v", "warn", "what to log: debug, info, warn or error")
	c.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		_, err := levelOf(c)
		return err
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return withCode(fault.New(fault.User, "%w", err))
	})
	c.AddCommand(output(), data(), locationCommand(), chronicle(), stream(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), version()) },
	})
	return c
}

// version is in the form that Kanister's kando prints.
func version() string {
	v := struct {
		Version string `json:"version"`
		Commit  string `json:"gitCommit"`
		Date    string `json:"buildDate"`
	}{"unknown", "unknown", "unknown"}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Version = info.Main.Version
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Commit = s.Value
			case "vcs.time": // of the commit: builds are reproducible
				v.Date = s.Value
			}
		}
	}
	b, _ := json.Marshal(v)
	return string(b)
}

const verbosity = "verbosity"

// levels are Kanister's words for what to log.
var levels = map[string]slog.Level{
	"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "warning": slog.LevelWarn,
	"error": slog.LevelError, "fatal": slog.LevelError, "panic": slog.LevelError,
}

func levelOf(c *cobra.Command) (slog.Level, error) {
	v := "warn"
	if f := c.Flag(verbosity); f != nil {
		v = f.Value.String()
	}
	l, ok := levels[strings.ToLower(v)]
	if !ok {
		return l, withCode(fault.New(fault.User, "--%s %q is not known: debug, info, warn or error", verbosity, v))
	}
	return l, nil
}

// logger writes to the standard error: the standard output is for data, and
// for outputs of the phase.
func logger(c *cobra.Command) *slog.Logger {
	l, _ := levelOf(c)
	return newLogger(c.ErrOrStderr(), l)
}

func newLogger(w io.Writer, l slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
}
