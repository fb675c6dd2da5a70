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
	"github.com/spf13/pflag"

	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
	"thaw/docs"
	"thaw/internal/keyfiles"
	store "thaw/internal/location"
	"thaw/internal/points"
)

// pointsAt is where restore points are, and the key that they are checked with.
type pointsAt struct {
	location, profile, key string
	passphrase             string // that the key is, once it is read
}

func (p *pointsAt) flags(f *pflag.FlagSet) {
	f.StringVar(&p.profile, "profile", "", "folder of a location profile, with a file for each key (docs/locations.md)")
	f.StringVar(&p.location, "location", defaultLocation(), "directory of restore points (default: $THAW_LOCATION, or that of thaw dev)")
	f.StringVar(&p.key, "key", "", "file of the secretsKey of the worker that wrote them: checks that none was changed")
}

// open opens the profile's location, and reads the key. Without a key nobody
// can say whether a record was changed, which the user is told.
func (p *pointsAt) open(cmd *cobra.Command, use func(s store.Store, key points.Key) error) error {
	key, err := p.readKey()
	if err != nil {
		return err
	}
	if key == nil {
		_, _ = fmt.Fprintln(cmd.ErrOrStderr(), "The seal is not checked: a record that was changed is not known as such. Check it with --key FILE, the worker's secretsKey.")
	}
	return at(cmd.Context(), p.profile, func(s store.Store) error { return use(s, key) })
}

func (p *pointsAt) readKey() (points.Key, error) {
	if p.key == "" {
		return nil, nil
	}
	if p.profile == "" {
		return nil, usagef("--key goes with --profile FOLDER: restore points in a directory of a worker have no seal")
	}
	var err error
	if p.passphrase, err = keyfiles.Passphrase(p.key); err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	return points.NewKey(p.passphrase)
}

func restorePointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "restorepoint", Aliases: []string{"rp"}, Short: "List, show and verify restore points of a location",
		Long: `List, show and verify the restore points of a location: a directory, or, with
--profile, what a location profile leads to. Neither Temporal, nor a cluster, nor a
worker is asked.`,
		Example: `  thaw restorepoint list --location /backups
  thaw restorepoint list --profile /etc/thaw/secrets/s3
  thaw restorepoint verify --profile /etc/thaw/secrets/s3 --key /etc/thaw/secrets.key shop-db-20261125t101500z-1b2c3d4e`,
	}
	var p pointsAt
	p.flags(cmd.PersistentFlags())
	cmd.AddCommand(listPoints(&p), showPoint(&p), verifyPoint(&p), sealPoint(&p), keepPoint(&p), releasePoint(&p), forgetPoint(&p), schemaOfPoints())
	return cmd
}

func listPoints(p *pointsAt) *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "list", Short: "List restore points, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.profile != "" {
				key, err := p.readKey()
				if err != nil {
					return err
				}
				return at(cmd.Context(), p.profile, func(s store.Store) error {
					list, err := listed(cmd.Context(), s, key)
					if err != nil {
						return err
					}
					return o.print(cmd.OutOrStdout(), list, func(w io.Writer) { tableOf(w, list, key != nil) })
				})
			}
			list, err := inDirectory(cmd.Context(), p.location)
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), list, func(w io.Writer) {
				lines := make([]line, len(list))
				for i := range list {
					lines[i].Entry, lines[i].Marks = points.EntryOf(&list[i].RestorePoint), list[i].Marks
				}
				tableOf(w, lines, false)
			})
		},
	}
	o.flag(cmd)
	return cmd
}

// line is a restore point as it is listed.
type line struct {
	points.State
	// Seal is "fits", or what is wrong, where a key is given: then each record is
	// read.
	Seal string `json:"seal,omitempty"`
}

// listed are the restore points of a location, newest first.
func listed(ctx context.Context, s store.Store, key points.Key) ([]line, error) {
	list, err := points.States(ctx, s, key)
	if err != nil {
		return nil, err
	}
	slices.Reverse(list)
	lines := make([]line, len(list))
	for i, e := range list {
		lines[i].State = e
		if key == nil {
			continue
		}
		switch rp, err := points.Read(ctx, s, e.ID, key); {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			lines[i].Seal = err.Error()
		case e.Forged, !e.Of(rp):
			lines[i].Seal = "the record's fits; its entry in the index is no worker's, or of another key"
		default:
			lines[i].Seal = "fits"
		}
	}
	return lines, nil
}

func showPoint(p *pointsAt) *cobra.Command {
	o := output{format: "yaml"}
	cmd := &cobra.Command{
		Use: "show RESTOREPOINT", Short: "Show a restore point with the proof of its freeze", Args: exactly(1, "RESTOREPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.profile != "" {
				return p.open(cmd, func(s store.Store, key points.Key) error {
					rp, err := points.Read(cmd.Context(), s, args[0], key)
					if err != nil {
						return err
					}
					return o.print(cmd.OutOrStdout(), rp, nil)
				})
			}
			rp, err := readRestorePoint(filepath.Join(p.location, args[0], plan.RestorePointFile))
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), rp, nil)
		},
	}
	cmd.Flags().StringVarP(&o.format, "output", "o", "yaml", "json or yaml")
	return cmd
}

func schemaOfPoints() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of a restore point's record", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(docs.RestorePointSchema)
			return err
		},
	}
}

func tableOf(w io.Writer, list []line, sealed bool) {
	header := []string{"RESTORE POINT", "TARGET", "BLUEPRINT", "CONSISTENT", "PROVEN", "COMPLETED", "RETENTION"}
	if sealed {
		header = append(header, "SEAL")
	}
	when := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339)
	}
	rows := make([][]string, len(list))
	for i, e := range list {
		state := "-"
		switch {
		case !e.Kept.IsZero():
			state = "kept by hand"
		case !e.Retiring.IsZero():
			state = "deleted after " + when(e.Retiring)
		}
		rows[i] = []string{e.ID, e.Target, e.Blueprint, fmt.Sprint(e.Consistent), when(e.Proven), when(e.CompletedAt), state}
		if sealed {
			rows[i] = append(rows[i], e.Seal)
		}
	}
	table(w, header, rows)
}

// at opens the location that a folder's profile leads to.
func at(ctx context.Context, folder string, use func(store.Store) error) error {
	p, err := profileOf(folder)
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, p)
	if err != nil {
		return err
	}
	return errors.Join(use(s), s.Close())
}

func profileOf(folder string) (templates.Profile, error) {
	keys, err := keyfiles.Read(folder)
	if err != nil {
		return templates.Profile{}, fmt.Errorf("--profile: %w", err)
	}
	p, err := store.FromKeys(keys)
	if err != nil {
		return p, fmt.Errorf("--profile %s: %w", folder, err)
	}
	return p, nil
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

// marked is a restore point of a directory.
type marked struct {
	plan.RestorePoint
	points.Marks
}

// inDirectory are the restore points of a directory, with their marks.
func inDirectory(ctx context.Context, dir string) ([]marked, error) {
	list, err := readRestorePoints(dir)
	if err != nil {
		return nil, err
	}
	all := make([]marked, len(list))
	for i := range list {
		all[i].RestorePoint = list[i]
	}
	if len(list) == 0 {
		return all, nil
	}
	s, err := directory(ctx, dir)
	if err != nil {
		return nil, err
	}
	marks, err := points.AllMarks(ctx, s)
	for i := range all {
		all[i].Marks = marks[all[i].ID]
	}
	return all, errors.Join(err, s.Close())
}

func directory(ctx context.Context, dir string) (store.Store, error) {
	if dir == "" {
		return nil, usagef("say where: --location DIRECTORY, or --profile FOLDER")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("location %s: %w", dir, err)
	}
	return points.Directory(ctx, abs)
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
