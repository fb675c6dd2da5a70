// Package wiring builds a worker: its configuration, its Temporal client, the
// functions that it has, and their registration. It is the one place that
// knows every family. Start with Run.
package wiring

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"thaw/activities/cluster"
	"thaw/activities/cluster/manifests"
	"thaw/activities/cluster/movers"
	"thaw/activities/host"
	"thaw/activities/secret"
	"thaw/blueprints/plan"
	"thaw/worker/actionset"
)

// Example is a commented configuration file.
const Example = `  taskQueue: thaw                # whose targets this worker serves
  stateDir: /var/lib/thaw        # its own: journal of freezes, temporary data
  location: /var/lib/thaw/restorepoints   # where restore points go by default
  secretsDir: /etc/thaw/secrets  # one folder a secret, one file a key
  configMapsDir: /etc/thaw/configmaps
  blueprintsDir: /etc/thaw/blueprints     # beside those that come with Thaw
  exec:
    allow: [/usr/bin/pg_dump]    # commands that Exec may run; none by default
  kubernetes:                    # in a pod: its own service account's
    kubeconfig: /etc/thaw/kubeconfig
    namespace: thaw              # of pods that a blueprint puts into none
  data:
    image: registry.example/thaw-tools:0.1   # of the pods that move data
  actionSets:                    # run Kanister's ActionSets
    enabled: true
    namespaces: [kanister]       # default: the worker's own; "*" is all
  secretsKey: /etc/thaw/secrets.key       # encrypts Secrets in restore points, and data; seals records; keep a copy
  log: {level: info, format: text}        # or json
`

// Config is what a worker is told. Every directory must be absolute.
type Config struct {
	TaskQueue     string         `yaml:"taskQueue"`
	StateDir      string         `yaml:"stateDir"`
	Location      string         `yaml:"location"`
	SecretsDir    string         `yaml:"secretsDir"`
	ConfigMapsDir string         `yaml:"configMapsDir"`
	BlueprintsDir string         `yaml:"blueprintsDir"`
	Exec          host.Config    `yaml:"exec"`
	Kubernetes    cluster.Config `yaml:"kubernetes"`
	Data          movers.Config  `yaml:"data"`
	// ActionSets of the cluster that the worker runs, as Kanister's controller.
	ActionSets actionset.Config `yaml:"actionSets"`
	// SecretsKey is the file of the key that encrypts the Secrets in restore
	// points, as age-keygen writes it; is the passphrase of repositories whose
	// blueprint names none; and seals the records of restore points. Default: <stateDir>/secrets.key, which is
	// made where it does not exist.
	SecretsKey string `yaml:"secretsKey"`
	Log        Log    `yaml:"log"`
	// ReadyFile is written once the worker takes work; for scripts.
	ReadyFile string `yaml:"readyFile"`
}

// Log says how much is logged, and how.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

// Default returns the configuration of a worker that was told nothing.
func Default() *Config {
	return &Config{TaskQueue: plan.DefaultTaskQueue, StateDir: stateDir(), Log: Log{Level: "info", Format: "text"}}
}

// stateDir follows the XDG base directory specification; root has /var/lib.
func stateDir() string {
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "thaw")
	}
	if home, err := os.UserHomeDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(home, ".local", "state", "thaw")
	}
	return "/var/lib/thaw"
}

// Flags adds the flags that win over the file.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.StringVar(&c.TaskQueue, "task-queue", c.TaskQueue, "task queue to serve")
	f.StringVar(&c.StateDir, "state-dir", c.StateDir, "the worker's own directory")
	f.StringVar(&c.Location, "location", "", "where restore points go by default (default: <state-dir>/restorepoints)")
	f.StringVar(&c.SecretsDir, "secrets-dir", "", "secrets: one folder each, one file a key")
	f.StringVar(&c.BlueprintsDir, "blueprints-dir", "", "blueprints beside those that come with Thaw")
	f.StringSliceVar(&c.Exec.Allow, "allow", nil, "commands that Exec may run")
	f.StringVar(&c.Kubernetes.Kubeconfig, "kubeconfig", "", "cluster to work on (default in a pod: its own)")
	f.StringVar(&c.Kubernetes.Context, "kube-context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(&c.Kubernetes.Namespace, "kube-namespace", "", "namespace of pods that a blueprint puts into none")
	f.BoolVar(&c.ActionSets.Enabled, "actionsets", false, "run Kanister's ActionSets, in place of its controller")
	f.StringVar(&c.Log.Level, "log-level", c.Log.Level, "debug, info, warn or error")
	f.StringVar(&c.Log.Format, "log-format", c.Log.Format, "text or json")
	f.StringVar(&c.ReadyFile, "ready-file", "", "file to write once the worker takes work")
}

// Load reads the file, strictly, under the flags that were given.
func (c *Config) Load(file string, given *pflag.FlagSet) error {
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
		dec := yaml.NewDecoder(bytes.NewReader(b))
		dec.KnownFields(true)
		fromFlags := map[string]string{}
		given.Visit(func(f *pflag.Flag) {
			if f.Name != "allow" {
				fromFlags[f.Name] = f.Value.String()
			}
		})
		allow := c.Exec.Allow
		if err := dec.Decode(c); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("configuration %s: %w", file, err)
		}
		for n, v := range fromFlags {
			if err := given.Set(n, v); err != nil {
				return fmt.Errorf("flag --%s: %w", n, err)
			}
		}
		c.Exec.Allow = append(c.Exec.Allow, allow...)
	}
	if c.Location == "" {
		c.Location = filepath.Join(c.StateDir, "restorepoints")
	}
	return c.check()
}

func (c *Config) secretsKey() string {
	if c.SecretsKey != "" {
		return c.SecretsKey
	}
	return filepath.Join(c.StateDir, "secrets.key")
}

// passphrase returns the secrets key as the passphrase of repositories.
func (c *Config) passphrase(redact *secret.Redactor) movers.Key {
	return func() (string, error) {
		id, err := manifests.Identity(c.secretsKey())
		if err != nil {
			return "", err
		}
		redact.Learn([]byte(id.String()))
		return id.String(), nil
	}
}

func (c *Config) check() error {
	var faults []error
	for name, dir := range map[string]string{"stateDir": c.StateDir, "location": c.Location, "secretsDir": c.SecretsDir, "configMapsDir": c.ConfigMapsDir, "blueprintsDir": c.BlueprintsDir, "kubernetes.kubeconfig": c.Kubernetes.Kubeconfig, "secretsKey": c.SecretsKey} {
		if dir != "" && !filepath.IsAbs(dir) {
			faults = append(faults, fmt.Errorf("configuration: %s %q: want an absolute path", name, dir))
		}
	}
	if c.TaskQueue == "" {
		faults = append(faults, errors.New("configuration: taskQueue is empty; the default is \"thaw\""))
	}
	return errors.Join(faults...)
}
