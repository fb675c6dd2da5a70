package main

import (
	"os"

	"github.com/spf13/cobra"

	"thaw/starter/blueprintcmd"
)

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "thaw",
		Short: "Application-consistent backups of databases that always thaw",
		Long: `Thaw freezes a database, cuts a snapshot, thaws it, exports what was cut, and restores
it. Each action of a blueprint runs as a durable Temporal workflow: whatever is frozen
always thaws.

  thaw dev                                     # Temporal, its Web UI and a worker, on this machine
  thaw run sqlite.backup --target sqlite:/data/shop.db
  thaw status                                  # what runs, what is frozen, what waits for you
  thaw run sqlite.restore --from shop-db-20261125t101500z-1b2c3d4e
  thaw approve RUN                             # a person's yes to a restore's plan
  thaw now RUN --reason "checkout is down"     # thaw now; the backup fails

Temporal is found as the Temporal CLI finds it: TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE,
TEMPORAL_API_KEY, TEMPORAL_TLS..., or a profile of temporal.toml (TEMPORAL_PROFILE). Where
none of them is set, thaw talks to the server that "thaw dev" runs.

Exit status: 0 done, 1 failed, 2 the command line is wrong.`,
		SilenceUsage: true, SilenceErrors: true,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"run", "Run and see:", []*cobra.Command{runCommand(), backupCommand(), restoreCommand(), statusCommand(), describeCommand(), restorePointCommand(), retireCommand(), gcCommand()}},
		{"operate", "Step in:", operateCommands()},
		{"author", "Write blueprints:", []*cobra.Command{blueprintcmd.New(os.Stdout)}},
		{"install", "Install:", []*cobra.Command{devCommand(), setupCommand(), rbacCommand(), versionCommand()}},
	}
	for _, g := range groups {
		cmd.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			cmd.AddCommand(c)
		}
	}
	return cmd
}
