package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/library"
	"thaw/blueprints/plan"
)

// devInfo is what `thaw dev` says of itself.
type devInfo struct {
	Address string `json:"address"`
	UI      string `json:"ui"`
	Worker  int    `json:"worker"`
}

// backup is a backup that was made, and what was seen of it.
type backup struct {
	id                    string
	consistent            bool
	why                   string
	frozen, waited        time.Duration
	rowsBefore, rowsAfter int
}

func (d *demo) bin(name string) string { return filepath.Join(filepath.Dir(d.dir), "bin", name) }

// startThaw starts the embedded server and a worker, by `thaw dev`.
func (d *demo) startThaw() error {
	config := filepath.Join(d.dir, "worker.yaml")
	b, err := yaml.Marshal(map[string]any{"exec": map[string]any{"allow": d.db.allow}, "secretsDir": filepath.Join(d.dir, "secrets")})
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, b, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "dev.log"))
	if err != nil {
		return err
	}
	cmd := exec.Command(d.bin("thaw"), "dev", "--port", "0", "--ui-port", "-1", "--worker-config", config)
	cmd.Env, cmd.Stdout, cmd.Stderr = d.env(), log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	d.stage.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	})
	if err := d.until("thaw dev is up; see "+log.Name(), 60*time.Second, func() bool { return d.readDev() && d.dev.Worker > 0 }); err != nil {
		return err
	}
	say("Temporal and a worker run. Web UI: %s", d.dev.UI)
	return nil
}

func (d *demo) env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TEMPORAL_") {
			env = append(env, e)
		}
	}
	return append(env, "THAW_DEV_DIR="+filepath.Join(d.dir, "dev"))
}

func (d *demo) readDev() bool {
	b, err := os.ReadFile(filepath.Join(d.dir, "dev", "dev.json"))
	return err == nil && json.Unmarshal(b, &d.dev) == nil
}

// thawTo runs the command line.
func (d *demo) thawTo(w io.Writer, args ...string) error {
	cmd := exec.CommandContext(d.ctx, d.bin("thaw"), args...)
	var errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = d.env(), w, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("thaw %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return nil
}

func (d *demo) thawJSON(into any, args ...string) error {
	var out bytes.Buffer
	if err := d.thawTo(&out, append(args, "-o", "json")...); err != nil {
		return err
	}
	return json.Unmarshal(out.Bytes(), into)
}

func (d *demo) runArgs(action string, more ...string) []string {
	args := []string{"run", action, "--by", "demo"}
	for _, s := range d.db.secrets {
		args = append(args, "--secret", s)
	}
	return append(args, more...)
}

func (d *demo) backup() (*backup, error) {
	before, err := d.db.rows(d.ctx)
	if err != nil {
		return nil, err
	}
	stop := d.db.watch()
	var out plan.Outcome
	err = d.thawJSON(&out, d.runArgs(d.db.blueprint+".backup", append(d.db.backupOptions, "--target", d.db.target)...)...)
	waited := stop()
	if err != nil {
		return nil, err
	}
	after, err := d.db.rows(d.ctx)
	if err != nil {
		return nil, err
	}
	b := &backup{waited: waited, rowsBefore: len(before), rowsAfter: len(after)}
	if rp := out.RestorePoint; rp != nil {
		b.id, b.consistent, b.why = rp.ID, rp.Consistent, rp.Consistency
	}
	for _, f := range out.Freezes {
		b.frozen += f.ThawedAt.Sub(f.DoStart)
	}
	return b, nil
}

// slowBlueprint is the database's blueprint with a pause in its freeze, so
// that there is time for a disaster.
func (d *demo) slowBlueprint() (string, error) {
	text, err := library.Load(d.db.blueprint)
	if err != nil {
		return "", err
	}
	var bp struct {
		Rest    map[string]any `yaml:",inline"`
		Actions map[string]struct {
			Rest   map[string]any   `yaml:",inline"`
			Phases []map[string]any `yaml:"phases"`
		} `yaml:"actions"`
	}
	if err := yaml.Unmarshal(text, &bp); err != nil {
		return "", err
	}
	for _, ph := range bp.Actions["backup"].Phases {
		if ph["freeze"] == nil {
			continue
		}
		inner, _ := ph["phases"].([]any)
		ph["phases"] = append([]any{map[string]any{"name": "slowDisk", "func": "Wait", "args": map[string]any{"for": "5s"}}}, inner...)
	}
	out, err := yaml.Marshal(bp)
	if err != nil {
		return "", err
	}
	file := filepath.Join(d.dir, "slow.yaml")
	return file, os.WriteFile(file, out, 0o600)
}

func (d *demo) startBackup(blueprint string) (run string, err error) {
	var started struct{ ID string }
	err = d.thawJSON(&started, d.runArgs(d.db.blueprint+".backup", append(d.db.backupOptions, "--target", d.db.target, "--file", blueprint, "--detach")...)...)
	return started.ID, err
}

func (d *demo) startRestore(p *backup) (run string, err error) {
	var started struct{ ID string }
	err = d.thawJSON(&started, d.runArgs(d.db.blueprint+".restore", append(d.db.restoreOptions, "--from", p.id, "--detach")...)...)
	return started.ID, err
}

func (d *demo) awaitApproval(run string) (digest string, err error) {
	err = d.until("the restore waits for its approval", 30*time.Second, func() bool {
		var s struct{ Progress plan.Progress }
		if d.thawJSON(&s, "describe", run) != nil || s.Progress.State != "waiting-for-approval" {
			return false
		}
		digest = s.Progress.Digest
		return true
	})
	return digest, err
}

// await waits for the end of a run, and says how it ended.
func (d *demo) await(run string) (end string, err error) {
	err = d.until("the end of "+run, 2*time.Minute, func() bool {
		var s struct{ Status, Error string }
		if d.thawJSON(&s, "describe", run) != nil || s.Status == "running" {
			return false
		}
		end = s.Status
		if s.Error != "" {
			say("   %s", s.Error)
		}
		return true
	})
	return end, err
}

func (d *demo) killWorker(string) error {
	if !d.readDev() {
		return fmt.Errorf("thaw dev does not say which process its worker is")
	}
	return syscall.Kill(d.dev.Worker, syscall.SIGKILL)
}

// terminate does what the Temporal UI's Terminate does.
func (d *demo) terminate(run string) error {
	c, err := dial(d.dev.Address)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.TerminateWorkflow(d.ctx, run, "", "terminated by the demo")
}
