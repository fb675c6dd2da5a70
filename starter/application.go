package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/plan"
)

func backupCommand() *cobra.Command {
	var f launch
	var req plan.ApplicationRequest
	var with, profile string
	cmd := &cobra.Command{
		Use:   "backup NAMESPACE",
		Short: "Back up an application: its manifests, volumes and databases, as one restore point",
		Long: `Backup takes all that is in a namespace of the worker's cluster, or the part of it that
--selector names. The blueprints that are bound to its objects freeze them; every freeze
is in effect before the first volume is cut, and every cut is made before the first thaw.`,
		Example: `  thaw backup shop
  thaw backup shop --plan
  thaw backup shop --profile kanister/s3     # and its data leaves the cluster
  thaw backup shop --selector app=shop --snapshot-class fast
  thaw backup shop --with orders.json   # and the database on a host that it uses`,
		Args: exactly(1, "NAMESPACE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Namespace, req.Location, req.RequestedBy, req.Plan = args[0], f.location, f.by, f.plan
			req.Approval, req.OnFailure = f.approval(), f.failing()
			req.Profile = profileReference(profile)
			if with != "" {
				b, err := os.ReadFile(with)
				if err == nil {
					err = json.Unmarshal(b, &req.With)
				}
				if err != nil {
					return usagef("--with %s: want a JSON list of inputs of RunAction: %v", with, err)
				}
			}
			return f.start(cmd, "BackupApplication", req.Namespace, req)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&req.Selector, "selector", "l", "", "labels of the objects (default: all)")
	fl.StringVar(&req.SnapshotClass, "snapshot-class", "", "VolumeSnapshotClass of the volumes that no blueprint cuts (default: each driver's)")
	fl.StringVar(&profile, "profile", "", "location profile that the restore point and the data of its volumes go to: "+profileForms)
	fl.BoolVar(&req.DropSnapshots, "drop-snapshots", false, "delete the snapshots once their data is in the location (default: they stay, for quick restores)")
	fl.IntVar(&req.Parallel, "parallel", 0, "how many volumes are copied to the location at once (default: 2)")
	fl.StringVar(&with, "with", "", "file with actions on targets elsewhere, whose freezes are held together with these: a JSON list of {blueprint, action, target, ...}")
	f.flags(cmd)
	return cmd
}

func restoreCommand() *cobra.Command {
	cmd, _, req := restoring("restore RESTOREPOINT", "Restore an application from a restore point")
	cmd.Long = `Restore plans what will be scaled down, replaced and made, waits for somebody's approval of
that plan, and carries it out. What it replaces is kept until the application is ready; a
restore that fails puts it back.`
	cmd.Example = `  thaw restore plan shop-20261125t101500z-1b2c3d4e
  thaw restore shop-20261125t101500z-1b2c3d4e --no-approval
  thaw restore shop-20261125t101500z-1b2c3d4e --profile s3   # on a cluster that knows nothing of it
  thaw restore shop-20261125t101500z-1b2c3d4e --namespace shop-test --storage-class fast=slow --image 'registry.old/*=registry.new/*'`
	cmd.Flags().BoolVar(&req.NoApproval, "no-approval", false, "restore without asking")
	show, of, _ := restoring("plan RESTOREPOINT", "Show what a restore would do, and do nothing")
	of.plan = true
	cmd.AddCommand(show)
	return cmd
}

// restoring is a command that plans a restore, or makes it.
func restoring(use, short string) (*cobra.Command, *launch, *plan.RestoreRequest) {
	var f launch
	var req plan.RestoreRequest
	var classes, images []string
	var transforms, profile string
	cmd := &cobra.Command{
		Use: use, Short: short, Args: exactly(1, "RESTOREPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.From, req.Location, req.RequestedBy, req.Plan = args[0], f.location, f.by, f.plan
			req.Approval, req.OnFailure = f.approval(), f.failing()
			req.Profile = profileReference(profile)
			var err error
			if req.StorageClasses, err = renames("--storage-class", classes); err != nil {
				return err
			}
			if req.Images, err = renames("--image", images); err != nil {
				return err
			}
			if transforms != "" {
				b, err := os.ReadFile(transforms)
				if err == nil {
					err = json.Unmarshal(b, &req.Transforms)
				}
				if err != nil {
					return usagef("--transforms %s: want a JSON list of {kind, name, patch}: %v", transforms, err)
				}
			}
			return f.start(cmd, "RestoreApplication", req.From, req)
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&req.Namespace, "namespace", "n", "", "namespace to restore into (default: the one that was backed up)")
	fl.StringArrayVar(&classes, "storage-class", nil, "another storage class, as OLD=NEW (repeat)")
	fl.StringArrayVar(&images, "image", nil, "another image, as OLD=NEW; both may end in * (repeat)")
	fl.DurationVar((*time.Duration)(&req.ReadyTimeout), "ready-timeout", 0, "how long the workloads may take until they are ready (default: 30m)")
	fl.StringVar(&profile, "profile", "", "location profile that has the restore point, where the worker does not: "+profileForms)
	fl.BoolVar(&req.FromLocation, "from-location", false, "fill the volumes from the location even where their snapshots are in the cluster")
	fl.IntVar(&req.Parallel, "parallel", 0, "how many volumes are filled from the location at once (default: 2)")
	fl.StringVar(&transforms, "transforms", "", "file with changes of the manifests: a JSON list of {kind, name, patch}, each patch as in RFC 6902")
	f.flags(cmd)
	return cmd, &f, &req
}

func renames(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[string]string{}
	for _, s := range list {
		from, to, ok := strings.Cut(s, "=")
		if !ok || from == "" || to == "" {
			return nil, usagef("%s %q: want OLD=NEW", flag, s)
		}
		out[from] = to
	}
	return out, nil
}

// writeApplication tells a person what a restore point holds of an application.
func writeApplication(line func(name, value string), a *plan.Application) {
	line("objects", fmt.Sprintf("%v, and %v secrets", a.Manifests["objects"], a.Manifests["secrets"]))
	line("volumes", fmt.Sprintf("%d, cut within %s", len(a.Volumes), dash(a.Spread)))
	exported := 0
	for _, v := range a.Volumes {
		if m, _ := v.(map[string]any); m["export"] != nil {
			exported++
		}
	}
	if exported > 0 {
		line("in the location", fmt.Sprintf("the data of %d volumes", exported))
	}
	for _, m := range a.Members {
		line("database", fmt.Sprintf("%s by %s", m.Target.Key(), m.Blueprint))
	}
}
