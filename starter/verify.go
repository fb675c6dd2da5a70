package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	store "thaw/internal/location"
	"thaw/internal/points"
)

func verifyPoint(p *pointsAt) *cobra.Command {
	var all bool
	var sample string
	cmd := &cobra.Command{
		Use: "verify RESTOREPOINT...", Short: "Read restore points of a location profile back, and check them",
		Long: `Verify checks a record by its seal, reads back every file that it names, and compares
each with the record. With --key it reads back the data of volumes in repositories too,
of which every block is authenticated. Other data that artifacts name is not read.

With --key, one that is whole is marked as proven: retention always keeps the newest
of those. With --sample no more is read than that share of the bytes of all together,
in whole files, others each day, and of volumes in parts of files; that nothing is
missing is checked of all, and the records and seals are always read. A sample proves
nothing, but what it finds is found early.`,
		Example: `  thaw restorepoint verify --profile /etc/thaw/secrets/s3 --key /etc/thaw/secrets.key shop-db-20261125t101500z-1b2c3d4e
  thaw restorepoint verify --profile /etc/thaw/secrets/s3 --key /etc/thaw/secrets.key --all --sample 5%`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			switch {
			case p.profile == "":
				return usagef("say where: --profile FOLDER; in a directory, run the blueprint's verify action")
			case all == (len(ids) > 0):
				return usagef("say which: RESTOREPOINT..., or --all")
			}
			part, err := points.SampleOf(sample, time.Now())
			if err != nil {
				return usagef("--sample %v", err)
			}
			return p.open(cmd, func(s store.Store, key points.Key) error {
				if all {
					list, err := points.List(cmd.Context(), s)
					if err != nil {
						return err
					}
					for _, e := range slices.Backward(list) {
						ids = append(ids, e.ID)
					}
				}
				return verify(cmd, s, ids, key, p.passphrase, part)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all that are in the location, the newest first")
	cmd.Flags().StringVar(&sample, "sample", "", "read no more than a share of the bytes, such as 5%")
	return cmd
}

func verify(cmd *cobra.Command, s store.Store, ids []string, key points.Key, passphrase string, sample *points.Sample) error {
	out := cmd.OutOrStdout()
	list, err := points.Verify(cmd.Context(), s, ids, key, passphrase, sample, func(text string) { _, _ = fmt.Fprintln(out, text) })
	if err != nil {
		return err
	}
	var wrong []error
	for _, c := range list {
		if c.Err != nil {
			wrong = append(wrong, c.Err)
			continue
		}
		_, _ = fmt.Fprintln(out, c.String())
		if c.Whole && sample == nil { // a sample of a small restore point can be all of it by chance
			prove(cmd, s, c.ID, key)
		}
	}
	return errors.Join(wrong...)
}

// prove marks one that is whole. A worker refuses what has no seal: without a
// key nobody knows that it can be restored.
func prove(cmd *cobra.Command, s store.Store, id string, key points.Key) {
	if key == nil {
		return
	}
	if err := points.Prove(cmd.Context(), s, id, points.Mark{At: time.Now(), By: whoami(), Reason: "verified"}); err != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s: it is whole, but cannot be marked as proven: %v\n", id, err)
	}
}

func sealPoint(p *pointsAt) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "seal RESTOREPOINT", Short: "Seal a record that you trust: one without a seal, or after the workers' key was changed", Args: exactly(1, "RESTOREPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if p.profile == "" || p.key == "" {
				return usagef("say where, and with which key: --profile FOLDER --key FILE")
			}
			return p.open(cmd, func(s store.Store, key points.Key) error {
				rp, err := points.Read(cmd.Context(), s, args[0], nil)
				if err != nil {
					return err
				}
				ask := fmt.Sprintf("%s of %s, by %s, of %s: workers will restore what its record names. Seal it?", rp.ID, rp.Target.Key(), rp.Blueprint, rp.CompletedAt.Format(time.RFC3339))
				if err := confirm(cmd, yes, ask); err != nil {
					return err
				}
				return points.Seal(cmd.Context(), s, args[0], key)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
