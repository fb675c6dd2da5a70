// Command thaw-demo is `make demo`: it backs up a live database under writes,
// kills the worker in the middle of a second backup's freeze, terminates a
// third, shows each time that the database thawed and for how long it was
// frozen, and restores the first restore point after a person's approval. It
// uses the programs as a person would: only the kill and the terminate go
// around them. Start with demo.run.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"golang.org/x/term"

	"thaw/internal/testdb"
)

func main() {
	_ = mysql.SetLogger(&mysql.NopLogger{}) // a restore ends its connections
	testdb.ChildMain()                      // SQLite's writer is a process of its own
	db := flag.String("db", "sqlite", "sqlite, postgres or mariadb")
	yes := flag.Bool("yes", false, "approve the restore without asking")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, *db, *yes)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

// start makes the scene, runs the demo in it, and clears it away.
func start(ctx context.Context, db string, yes bool) (err error) {
	dir, err := filepath.Abs(".demo")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	stage := &testdb.Stage{}
	defer stage.Close()
	defer func() {
		// A stage has no test to fail: what goes wrong on it is a panic.
		if r := recover(); r != nil {
			var f testdb.Failure
			if e, ok := r.(error); !ok || !errors.As(e, &f) {
				panic(r)
			}
			err = f
		}
	}()
	d := &demo{ctx: ctx, dir: dir, yes: yes, stage: stage}
	if d.db, err = open(stage, db, dir); err != nil {
		return err
	}
	if err := d.startThaw(); err != nil {
		return err
	}
	return d.run()
}

// demo is the play.
type demo struct {
	ctx   context.Context
	dir   string
	yes   bool
	stage *testdb.Stage
	db    *database
	dev   devInfo
}

func (d *demo) run() error {
	say("\n1. Back up %s, under continuous writes.", d.db.target)
	first, err := d.backup()
	if err != nil {
		return err
	}
	say("   Frozen for %s; writers waited %s at most. Restore point %s, consistent: %t.", round(first.frozen), round(first.waited), first.id, first.consistent)
	if !first.consistent {
		return fmt.Errorf("the first restore point is not consistent: %s", first.why)
	}

	say("\n2. Back up again, and kill the worker with -9 in the middle of the freeze.")
	slow, err := d.slowBlueprint()
	if err != nil {
		return err
	}
	if err := d.disaster(slow, "worker killed with -9", d.killWorker); err != nil {
		return err
	}

	say("\n3. Back up a third time, and terminate the workflow in the middle of the freeze.")
	if err := d.disaster(slow, "workflow terminated", d.terminate); err != nil {
		return err
	}

	say("\n4. Restore the first restore point, with your approval.")
	return d.restore(first)
}

// disaster starts a backup, lets something happen in its freeze, and shows
// when the database took writes again.
func (d *demo) disaster(blueprint, what string, happen func(run string) error) error {
	run, err := d.startBackup(blueprint)
	if err != nil {
		return err
	}
	var since time.Time
	frozen := func() (yes bool) {
		at, yes := d.db.frozen()
		if yes {
			since = at
		}
		return yes
	}
	if err := d.until("the database is frozen", time.Minute, frozen); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond) // let it be seen that it is frozen
	say("   Frozen for %s. Now: %s.", round(time.Since(since)), what)
	at := time.Now()
	if err := happen(run); err != nil {
		return err
	}
	if err := d.until("the database is thawed", 30*time.Second, func() bool { return !frozen() }); err != nil {
		return err
	}
	say("   Thawed %s after that; frozen for %s in all.", round(time.Since(at)), round(time.Since(since)))
	end, err := d.await(run)
	if err != nil {
		return err
	}
	say("   The backup ended as %s. It made no restore point.", end)
	return nil
}

func (d *demo) restore(p *backup) error {
	d.db.stopLoad()
	before, err := d.db.rows(d.ctx)
	if err != nil {
		return err
	}
	say("   The application is stopped. It had written %d rows.", len(before))
	run, err := d.startRestore(p)
	if err != nil {
		return err
	}
	digest, err := d.awaitApproval(run)
	if err != nil {
		return err
	}
	if err := d.thawTo(os.Stdout, "describe", run); err != nil {
		return err
	}
	if !d.yes {
		if !ask("\n   Approve this plan (%s)? Type yes: ", digest) {
			_ = d.thawTo(os.Stdout, "reject", run, "--digest", digest, "--reason", "not approved in the demo")
			return errors.New("you did not approve; nothing was restored")
		}
	}
	if err := d.thawTo(os.Stdout, "approve", run, "--digest", digest); err != nil {
		return err
	}
	if end, err := d.await(run); err != nil || end != "completed" {
		return fmt.Errorf("the restore ended as %s (%w); see: thaw describe %q", end, err, run)
	}
	testdb.Reconnect(d.db.db)
	after, err := d.db.rows(d.ctx)
	if err != nil {
		return err
	}
	if err := compare(before, after, p); err != nil {
		return err
	}
	if _, err := d.db.check(d.ctx); err != nil {
		return fmt.Errorf("restored data: %w", err)
	}
	say("   Restored, and compared row for row: %d of %d rows are back, each as it was written; those after the backup are gone; the books balance.", len(after), len(before))
	say("\nWeb UI: %s\nCommand line: THAW_DEV_DIR=%s bin/thaw status", d.dev.UI, filepath.Join(d.dir, "dev"))
	if !d.yes && term.IsTerminal(int(os.Stdin.Fd())) {
		ask("\nThe Web UI stays until you press Enter. ")
	}
	return nil
}

// compare says whether the restored rows are the first rows, each as written,
// up to the moment of the backup.
func compare(before, after []string, p *backup) error {
	was := make(map[string]bool, len(before))
	for _, r := range before {
		was[r] = true
	}
	for _, r := range after {
		if !was[r] {
			return fmt.Errorf("restored row %q was never written", r)
		}
	}
	if len(after) < p.rowsBefore || len(after) > p.rowsAfter {
		return fmt.Errorf("%d rows are back; the backup began with %d and ended with %d", len(after), p.rowsBefore, p.rowsAfter)
	}
	return nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func ask(format string, args ...any) bool {
	fmt.Printf(format, args...)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	return line == "yes\n"
}

func round(d time.Duration) time.Duration { return d.Round(time.Millisecond / 10) }

func (d *demo) until(what string, limit time.Duration, ok func() bool) error {
	deadline := time.Now().Add(limit)
	for !ok() {
		if d.ctx.Err() != nil {
			return d.ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s in vain: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return nil
}
