package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"thaw/internal/keyfiles"
	store "thaw/internal/location"
	"thaw/internal/orphans"
)

func gcCommand() *cobra.Command {
	var o output
	var folder, key string
	var remove, dry, data, yes bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Find what in a location belongs to no restore point",
		Long: `Gc lists a location whole, reads every record in it, and says what none of them names:
files of restore points that no list shows, entries and marks of those that are gone, data,
and, with --key, snapshots in repositories. What is younger than a day is left out: it may
be in the making.

Nothing is deleted without --delete; and data and snapshots not without --data besides.
They may be needed: those of ActionSets, and of runs with "unpublished", are named by no
restore point here, and other programs may keep theirs in the same place.`,
		Example: `  thaw gc --profile /etc/thaw/secrets/s3 --key /etc/thaw/secrets.key
  thaw gc --profile /etc/thaw/secrets/s3 --delete`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case folder == "":
				return usagef("say where: --profile FOLDER")
			case dry && remove:
				return usagef("--dry-run and --delete: want one of them")
			case data && !remove:
				return usagef("--data goes with --delete")
			}
			opts := orphans.Options{Now: time.Now()}
			if key != "" {
				var err error
				if opts.Passphrase, err = keyfiles.Passphrase(key); err != nil {
					return fmt.Errorf("--key: %w", err)
				}
			}
			p, err := profileOf(folder)
			if err != nil {
				return err
			}
			opts.Prefix = p.Location.Prefix
			if p.Location.Type != store.TypeDirectory {
				opts.Bucket = p.Location.Bucket
			}
			return at(cmd.Context(), folder, func(s store.Store) error {
				r, err := orphans.Find(cmd.Context(), s, opts)
				if err != nil {
					return err
				}
				if err := o.print(cmd.OutOrStdout(), r, func(w io.Writer) { orphanTable(w, r) }); err != nil || !remove {
					return err
				}
				return removeOrphans(cmd, s, r, opts.Passphrase, data, yes)
			})
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&folder, "profile", "", "folder of a location profile, with a file for each key (docs/locations.md)")
	fl.StringVar(&key, "key", "", "file of the workers' secretsKey: checks records by their seals, and opens repositories")
	fl.BoolVar(&dry, "dry-run", false, "delete nothing, which is the default")
	fl.BoolVar(&remove, "delete", false, "delete what is left of restore points")
	fl.BoolVar(&data, "data", false, "with --delete: delete data and snapshots too, which no restore point here names")
	fl.BoolVarP(&yes, "yes", "y", false, "do not ask")
	o.flag(cmd)
	return cmd
}

func removeOrphans(cmd *cobra.Command, s store.Store, r *orphans.Report, passphrase string, data, yes bool) error {
	var list []orphans.Orphan
	for _, o := range r.Orphans {
		if data || o.Kind.Bookkeeping() {
			list = append(list, o)
		}
	}
	if len(list) == 0 {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "Nothing is deleted.")
		return nil
	}
	if err := confirm(cmd, yes, fmt.Sprintf("Delete %d of them from %s?", len(list), s)); err != nil {
		return err
	}
	err := orphans.Remove(cmd.Context(), s, list, passphrase, func(text string) { _, _ = fmt.Fprintln(cmd.ErrOrStderr(), text) })
	if errors.Is(err, store.ErrLocked) {
		err = fmt.Errorf("%w; run it again when the locks have ended", err)
	}
	return err
}

func orphanTable(w io.Writer, r *orphans.Report) {
	if len(r.Orphans) == 0 {
		_, _ = fmt.Fprintf(w, "All that is older than a day belongs to one of %d restore points.\n", r.Points)
	} else {
		rows := make([][]string, len(r.Orphans))
		for i, o := range r.Orphans {
			objects := fmt.Sprint(o.Objects)
			if o.Kind == orphans.Snapshot {
				objects = "-"
			}
			rows[i] = []string{string(o.Kind), o.Name, dash(o.ID), objects, fmt.Sprint(o.Size), o.Modified.UTC().Format(time.RFC3339)}
		}
		table(w, []string{"KIND", "WHERE", "ID", "OBJECTS", "BYTES", "MODIFIED"}, rows)
	}
	for _, u := range r.Unknown {
		_, _ = fmt.Fprintln(w, u)
	}
	if r.Young > 0 {
		_, _ = fmt.Fprintf(w, "%d objects more are younger than a day: they may be in the making.\n", r.Young)
	}
}
