package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/plan"
)

func restorePointCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "restorepoint", Aliases: []string{"rp"}, Short: "List and show restore points of a location"}
	var location string
	cmd.PersistentFlags().StringVar(&location, "location", defaultLocation(), "directory of restore points (default: $THAW_LOCATION, or that of thaw dev)")
	list := &cobra.Command{Use: "list", Short: "List restore points, newest first", Args: cobra.NoArgs}
	var o output
	o.flag(list)
	list.RunE = func(cmd *cobra.Command, _ []string) error {
		points, err := readRestorePoints(location)
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), points, func(w io.Writer) {
			rows := make([][]string, len(points))
			for i, p := range points {
				rows[i] = []string{p.ID, p.Target.Key(), p.Blueprint, fmt.Sprint(p.Consistent), p.CompletedAt.Format(time.RFC3339)}
			}
			table(w, []string{"RESTORE POINT", "TARGET", "BLUEPRINT", "CONSISTENT", "COMPLETED"}, rows)
		})
	}
	show := &cobra.Command{Use: "show RESTOREPOINT", Short: "Show a restore point with the proof of its freeze", Args: exactly(1, "RESTOREPOINT")}
	so := output{format: "yaml"}
	show.Flags().StringVarP(&so.format, "output", "o", "yaml", "json or yaml")
	show.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := readRestorePoint(filepath.Join(location, args[0], plan.RestorePointFile))
		if err != nil {
			return err
		}
		return so.print(cmd.OutOrStdout(), p, nil)
	}
	cmd.AddCommand(list, show)
	return cmd
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
