package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"

	"thaw/deploy/cluster/driver"
)

func driverMain(ctx context.Context, args []string) error {
	c := driver.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	f := flag.NewFlagSet("csi-driver", flag.ContinueOnError)
	f.StringVar(&c.Socket, "socket", "", "serve CSI on it")
	f.StringVar(&c.Register, "register", "", "the kubelet's directory of plugins to register")
	f.StringVar(&c.Image, "image", "", "file that holds the pool")
	f.StringVar(&c.Pool, "pool", "", "where the pool is mounted")
	f.Int64Var(&c.Size, "size", 64<<30, "size of the pool")
	f.StringVar(&c.Node, "node", nodeName, "name of the node")
	f.Func("faults", "file of faults", func(s string) error { c.Faults = driver.FaultFile(s); return nil })
	if err := f.Parse(args); err != nil {
		return err
	}
	d, err := driver.New(c)
	if err != nil {
		return err
	}
	return d.Serve(ctx)
}

// fault sets, lists and clears what the driver does wrong.
func (p paths) fault(args []string) error {
	if _, err := p.loadOptions(); err != nil {
		return err
	}
	if len(args) > 0 && args[0] == "list" {
		faults, err := p.faults().Read()
		if err != nil {
			return err
		}
		e := json.NewEncoder(os.Stdout)
		for _, x := range faults {
			if err := e.Encode(x); err != nil {
				return err
			}
		}
		return nil
	}
	if len(args) > 0 && args[0] == "clear" {
		return p.clearFaults(args[1:])
	}
	var x driver.Fault
	f := flag.NewFlagSet("fault", flag.ContinueOnError)
	f.StringVar(&x.Namespace, "namespace", "", "only for claims in namespaces that match this pattern")
	f.StringVar(&x.Claim, "pvc", "", "only for claims whose name matches this pattern")
	f.IntVar(&x.Times, "times", 0, "so often only")
	f.DurationVar(&x.Ready, "snapshot-ready-after", 0, "a snapshot is ready to use so long after its cut")
	f.BoolVar(&x.NotReady, "never-ready", false, "a snapshot is never ready to use")
	f.DurationVar(&x.SlowCut, "slow-cut", 0, "a snapshot is cut so long after it was asked for")
	f.BoolVar(&x.FailCut, "fail-snapshots", false, "a snapshot fails before its cut")
	f.BoolVar(&x.HangCut, "hang-snapshots", false, "a snapshot's creation hangs before its cut")
	f.BoolVar(&x.LoseCut, "lose-snapshots", false, "a snapshot is cut, and the answer is an error")
	f.BoolVar(&x.FailMake, "fail-create-volume", false, "a volume's creation fails")
	f.BoolVar(&x.HangMake, "hang-create-volume", false, "a volume's creation hangs")
	f.BoolVar(&x.FailDrop, "fail-delete-snapshot", false, "a snapshot's deletion fails")
	if err := f.Parse(args); err != nil {
		return err
	}
	only := driver.Fault{Namespace: x.Namespace, Claim: x.Claim, Times: x.Times}
	if f.NArg() > 0 || x == only {
		return fmt.Errorf("fault %q: it tells nothing to do wrong; see thaw-cluster fault --help", args)
	}
	if err := x.Check(); err != nil {
		return err
	}
	err := p.faults().Update(func(set []driver.Fault) []driver.Fault {
		for _, y := range set {
			x.ID = max(x.ID, y.ID)
		}
		x.ID = max(x.ID, lastID(p)) + 1
		return append(set, x)
	})
	if err == nil {
		err = writeFile(p.in("csi", "last-fault"), []byte(strconv.Itoa(x.ID)), 0o600)
	}
	if err == nil {
		fmt.Println(x.ID)
	}
	return err
}

// snapshots lists what the storage has, to be compared with what the cluster
// knows.
func (p paths) snapshots() error {
	if _, err := p.loadOptions(); err != nil {
		return err
	}
	list, err := driver.ListStored(p.pool())
	if err != nil {
		return err
	}
	e := json.NewEncoder(os.Stdout)
	for _, s := range list {
		if err := e.Encode(s); err != nil {
			return err
		}
	}
	return nil
}

// lastID is the last fault's: a number is not given twice, the driver counts by
// it.
func lastID(p paths) int {
	b, _ := os.ReadFile(p.in("csi", "last-fault"))
	n, _ := strconv.Atoi(string(b))
	return n
}

func (p paths) clearFaults(args []string) error {
	var ids []int
	for _, a := range args {
		n, err := strconv.Atoi(a)
		if err != nil {
			return fmt.Errorf("fault clear %q: want the number that `fault` printed", a)
		}
		ids = append(ids, n)
	}
	return p.faults().Update(func(set []driver.Fault) []driver.Fault {
		return slices.DeleteFunc(set, func(x driver.Fault) bool { return len(ids) == 0 || slices.Contains(ids, x.ID) })
	})
}
