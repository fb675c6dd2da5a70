package main

import (
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"slices"

	"github.com/spf13/cobra"

	"thaw/activities/kando"
	"thaw/activities/mover"
	"thaw/blueprints/fault"
)

// memory is what the mover may use before it collects harder. What it needs
// does not grow with what it moves, but for the repository's index.
const memory = 256 << 20

func data() *cobra.Command {
	return &cobra.Command{
		Use: "data FILE|-", Short: "Move data, as a Thaw worker asks",
		Long: `Move data, as a Thaw worker asks. The request, with credentials in it, is read from a
file or from the standard input; what comes of it is printed as outputs of the phase.
This is not for people: the functions BackupData, CopyVolumeData, RestoreData,
DeleteData and their like call it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			debug.SetMemoryLimit(memory)
			in := io.Reader(os.Stdin)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			q, err := mover.Read(in)
			if err != nil {
				return withCode(err)
			}
			out, err := mover.Run(c.Context(), q, slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)))
			if err != nil {
				return withCode(err)
			}
			for _, key := range slices.Sorted(maps.Keys(out)) {
				if err := kando.Print(c.OutOrStdout(), key, out[key]); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// withCode gives an error the exit code by which a worker knows its kind.
func withCode(err error) error {
	switch fault.Of(err) {
	case fault.User:
		return &exitError{err, mover.ExitUser}
	case fault.Transient:
		return &exitError{err, mover.ExitTransient}
	}
	return err
}
