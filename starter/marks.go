package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/plan"
	store "thaw/internal/location"
	"thaw/internal/points"
)

// marking is a command that writes a mark of a restore point that is there.
func marking(p *pointsAt, use, short, done string, mark func(cmd *cobra.Command, s store.Store, id string, m points.Mark) error) *cobra.Command {
	var m points.Mark
	cmd := &cobra.Command{
		Use: use, Short: short, Args: exactly(1, "RESTOREPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.At = time.Now()
			return p.each(cmd, args[0], func(s store.Store) error {
				if err := mark(cmd, s, args[0], m); err != nil {
					return err
				}
				_, _ = fmt.Fprintf(cmd.OutOrStdout(), done+"\n", args[0])
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&m.By, "by", whoami(), "who decides it")
	cmd.Flags().StringVar(&m.Reason, "reason", "", "why")
	return cmd
}

func keepPoint(p *pointsAt) *cobra.Command {
	return marking(p, "keep RESTOREPOINT", "Keep a restore point whatever retention says; undoes that it is to be deleted",
		"%s is kept until: thaw restorepoint release", func(cmd *cobra.Command, s store.Store, id string, m points.Mark) error {
			return points.Keep(cmd.Context(), s, id, m)
		})
}

func releasePoint(p *pointsAt) *cobra.Command {
	return marking(p, "release RESTOREPOINT", "Let retention have a restore point again that was kept",
		"%s is retention's again", func(cmd *cobra.Command, s store.Store, id string, m points.Mark) error {
			return points.Release(cmd.Context(), s, id, m)
		})
}

// each opens where a restore point is that must be there.
func (p *pointsAt) each(cmd *cobra.Command, id string, use func(store.Store) error) error {
	if p.profile != "" {
		return at(cmd.Context(), p.profile, func(s store.Store) error {
			if _, err := points.Read(cmd.Context(), s, id, nil); err != nil {
				return err
			}
			return use(s)
		})
	}
	if !plan.ValidRestorePointID(id) {
		return usagef("%q is no id of a restore point", id)
	}
	if _, err := readRestorePoint(filepath.Join(p.location, id, plan.RestorePointFile)); err != nil {
		return err
	}
	s, err := directory(cmd.Context(), p.location)
	if err != nil {
		return err
	}
	return errors.Join(use(s), s.Close())
}

func forgetPoint(p *pointsAt) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "forget RESTOREPOINT", Short: "Take a restore point's record away whose data is deleted already", Args: exactly(1, "RESTOREPOINT"),
		Long: `Forget is for a restore point whose blueprint has no delete action, or whose action
cannot run any more. Delete its data by hand first: forget takes the record away, and the
files beside it in a location. What its artifacts name elsewhere is not deleted, and
nobody knows of it afterwards.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if err := confirm(cmd, yes, fmt.Sprintf("Forget %s? What its artifacts name is not deleted.", id)); err != nil {
				return err
			}
			return p.each(cmd, id, func(s store.Store) error {
				if p.profile != "" {
					return points.Remove(cmd.Context(), s, id, func(string) {})
				}
				dir := filepath.Join(p.location, id)
				if err := os.Remove(filepath.Join(dir, plan.RestorePointFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("forget %s: %w", id, err)
				}
				_ = os.Remove(dir) // where nothing is left in it
				return points.Unmark(cmd.Context(), s, id)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
