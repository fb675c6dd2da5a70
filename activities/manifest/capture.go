package manifest

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"thaw/activities/cluster"
	"thaw/activities/cluster/manifests"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

type captureArgs struct {
	Namespace string `arg:"namespace,required" doc:"Namespace whose objects are captured"`
	Selector  string `arg:"selector" doc:"Labels of the objects; all where there is none"`
	Directory string `arg:"directory" doc:"Where the files go; the restore point's directory where there is none"`
}

// captureManifests is idempotent: a second attempt writes the files again.
func captureManifests(c *cluster.Cluster, key string) function.Function {
	return function.New(catalogue.Function{
		Name: "CaptureManifests", Family: family,
		Summary:    "Capture the objects of a namespace, without what the cluster assigned to them. Secrets go into a file of their own, encrypted.",
		Idempotent: true, Timeout: 10 * time.Minute,
		Outputs: []catalogue.Output{
			{Name: "file", Description: "the file of the manifests"},
			{Name: "sha256", Description: "its SHA-256, in hex"},
			{Name: "objects", Description: "objects in it"},
			{Name: "secrets", Description: "Secrets in the encrypted file beside it"},
			{Name: "warnings", Description: "list of what could not be captured"},
		},
		// A namespace can be got with a role in it.
		Rules: []catalogue.Rule{everything("list"), {Resources: []string{"namespaces"}, Verbs: []string{"get"}}},
	}, func(ctx context.Context, env *function.Env, a captureArgs) (function.Outputs, error) {
		if err := c.Need(); err != nil {
			return nil, err
		}
		out, err := capture(ctx, c, env, a, key)
		if err != nil {
			return nil, fmt.Errorf("capture the manifests of namespace %s: %w", a.Namespace, err)
		}
		return out, nil
	})
}

func capture(ctx context.Context, c *cluster.Cluster, env *function.Env, a captureArgs, key string) (function.Outputs, error) {
	dir := a.Directory
	if dir == "" {
		dir = env.RestorePoint.Directory
	}
	if !filepath.IsAbs(dir) {
		return nil, fault.New(fault.User, "directory %q: want an absolute path; this run has no restore point", dir)
	}
	id, err := manifests.Identity(key)
	if err != nil {
		return nil, err
	}
	ns, err := c.Get(ctx, plan.Reference{Kind: "Namespace", Name: a.Namespace}, env.Heartbeat)
	if err != nil {
		return nil, err
	}
	env.Heartbeat("listing objects")
	all, warnings, err := manifests.List(ctx, c, a.Namespace, a.Selector)
	if err != nil {
		return nil, err
	}
	set, secrets := manifests.New(ns, all)
	text, err := json.MarshalIndent(set, "", " ")
	if err != nil {
		return nil, fault.New(fault.Permanent, "%w", err)
	}
	if len(secrets) > 0 {
		sealed, err := manifests.Seal(secrets, id)
		if err != nil {
			return nil, fault.New(fault.Permanent, "encrypt: %w", err)
		}
		if err := write(filepath.Join(dir, manifests.SecretsFile), sealed); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(dir, manifests.File)
	if err := write(file, append(text, '\n')); err != nil {
		return nil, err
	}
	said := make([]any, len(warnings))
	for i, w := range warnings {
		env.Log.Warn("not captured", "namespace", a.Namespace, "what", w)
		said[i] = w
	}
	return function.Outputs{"file": file, "sha256": digest(append(text, '\n')), "objects": len(set.Objects), "secrets": len(secrets), "warnings": said}, nil
}
