package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/plan"
	"thaw/internal/keyfiles"
	store "thaw/internal/location"
	"thaw/internal/points"
)

func restorePointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restorepoint", Aliases: []string{"rp"}, Short: "List, show and verify restore points of a location",
		Long: `List, show and verify the restore points of a location: a directory, or, with
--profile, what a location profile leads to. Neither Temporal, nor a cluster, nor a
worker is asked.`,
		Example: `  thaw restorepoint list --location /backups
  thaw restorepoint list --profile /etc/thaw/secrets/s3
  thaw restorepoint verify --profile /etc/thaw/secrets/s3 shop-db-20261125t101500z-1b2c3d4e`,
	}
	var location, profile string
	cmd.PersistentFlags().StringVar(&profile, "profile", "", "folder of a location profile, with a file for each key (docs/locations.md)")
	cmd.PersistentFlags().StringVar(&location, "location", defaultLocation(), "directory of restore points (default: $THAW_LOCATION, or that of thaw dev)")
	list := &cobra.Command{Use: "list", Short: "List restore points, newest first", Args: cobra.NoArgs}
	var o output
	o.flag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		if profile != "" {
			return at(cmd.Context(), profile, func(s store.Store) error {
				list, err := points.List(cmd.Context(), s)
				if err != nil {
					return err
				}
				slices.Reverse(list)
				return o.print(cmd.OutOrStdout(), list, func(w io.Writer) { tableOf(w, list) })
			})
		}
		list, err := readRestorePoints(location)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), list, func(w io.Writer) {
			entries := make([]points.Entry, len(list))
			for i := range list {
				entries[i] = points.EntryOf(&list[i])
			}
			tableOf(w, entries)
		})
	}
	show := &cobra.Command{Use: "show RESTOREPOINT", Short: "Show a restore point with the proof of its freeze", Args: exactly(1, "RESTOREPOINT")}
	so := output{format: "yaml"}
	show.Flags().StringVarP(&so.format, "output", "o", "yaml", "json or yaml")
	show.RunE = func(cmd *cobra.Command, args []string) error {
		if profile != "" {
			return at(cmd.Context(), profile, func(s store.Store) error {
				p, err := points.Read(cmd.Context(), s, args[0])
				if err != nil {
					return err
				}
				return so.print(cmd.OutOrStdout(), p, nil)
			})
		}
		p, err := readRestorePoint(filepath.Join(location, args[0], plan.RestorePointFile))
		if err != nil {
			return err
		}
		return so.print(cmd.OutOrStdout(), p, nil)
	}
	verify := &cobra.Command{
		Use: "verify RESTOREPOINT", Short: "Read back every file of a restore point in a location profile, and check it", Args: exactly(1, "RESTOREPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if profile == "" {
				return usagef("say where: --profile FOLDER; in a directory, run the blueprint's verify action")
			}
			return at(cmd.Context(), profile, func(s store.Store) error {
				if err := points.Verify(cmd.Context(), s, args[0], func(text string) { _, _ = fmt.Fprintln(cmd.OutOrStdout(), text) }); err != nil {
					return err
				}
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), "%s: its record and all of its files are whole; data that its artifacts name elsewhere was not read\n", args[0])
				return nil
			})
		},
	}
	cmd.AddCommand(list, show, verify)
	return cmd
}

func tableOf(w io.Writer, list []points.Entry) {
	rows := make([][]string, len(list))
	for i, e := range list {
		rows[i] = []string{e.ID, e.Target, e.Blueprint, fmt.Sprint(e.Consistent), e.CompletedAt.Format(time.RFC3339)}
	}
	table(w, []string{"RESTORE POINT", "TARGET", "BLUEPRINT", "CONSISTENT", "COMPLETED"}, rows)
}

// at opens the location that a folder's profile leads to.
func at(ctx context.Context, folder string, use func(store.Store) error) error {
	keys, err := keyfiles.Read(folder)
	if err != nil {
		return fmt.Errorf("--profile: %w", err)
	}
	p, err := store.FromKeys(keys)
	if err != nil {
		return fmt.Errorf("--profile %s: %w", folder, err)
	}
	s, err := store.Open(ctx, p)
	if err != nil {
		return err
	}
	return errors.Join(use(s), s.Close())
}

func defaultLocation() string {
	if l := os.Getenv("THAW_LOCATION"); l != "" {
		return l
	}
	if d, err := readDev(); err == nil {
		return d.Location
	}
	return ""
}

func readRestorePoints(location string) ([]plan.RestorePoint, error) {
	if location == "" {
		return nil, usagef("say where: --location DIRECTORY")
	}
	files, err := filepath.Glob(filepath.Join(location, "*", plan.RestorePointFile))
	if err != nil {
		return nil, fmt.Errorf("location %s: %w", location, err)
	}
	points := []plan.RestorePoint{}
	for _, f := range files {
		p, err := readRestorePoint(f)
		if err != nil {
			return nil, err
		}
		points = append(points, *p)
	}
	slices.SortFunc(points, func(a, b plan.RestorePoint) int {
		if c := b.CompletedAt.Compare(a.CompletedAt); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return points, nil
}

func readRestorePoint(file string) (*plan.RestorePoint, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("restore point: %w", err)
	}
	p, err := plan.ParseRestorePoint(b)
	if err != nil {
		return nil, fmt.Errorf("restore point %s: %w", file, err)
	}
	return p, nil
}
