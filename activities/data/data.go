// Package data is the family of functions that move data to a location and
// back: Kanister's BackupData, CopyVolumeData, RestoreData, DeleteData and
// their like, with its names, arguments and outputs. The data is moved by
// package mover, beside it: in a container that is there, or in a pod made for
// it. Start with task.go; requests are built in backup.go and restore.go.
package data

import (
	"context"
	"fmt"
	"strings"
	"time"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

const family = "data"

// Config of the family.
type Config struct {
	// Image with the mover, for pods that are made to move data, whatever
	// image a blueprint names for them: theirs has restic, which is not what
	// moves data here. Default: the blueprint's own image.
	Image string `yaml:"image"`
}

// Key returns the passphrase of repositories whose blueprint names none.
type Key func() (string, error)

// Functions of this family, on a cluster that may be nil.
func Functions(c *cluster.Cluster, cfg Config, key Key) []function.Function {
	m := &maker{c: c, cfg: cfg, key: key}
	return []function.Function{
		m.backupData(), m.backupDataAll(), m.copyVolumeData(), m.restoreData(), m.restoreDataAll(),
		m.deleteData(), m.deleteDataAll(), m.backupDataStats(), m.checkRepository(), locationDelete(),
	}
}

// maker makes functions. It keeps no state of calls.
type maker struct {
	c   *cluster.Cluster
	cfg Config
	key Key
}

// dataCall is how long moving data may take; Kanister has no such limit.
const dataCall = 24 * time.Hour

// repositoryArgs are those of every function that opens a repository.
type repositoryArgs struct {
	EncryptionKey string `arg:"encryptionKey" doc:"Passphrase of the repository; the worker's secretsKey where there is none"`
	InsecureTLS   bool   `arg:"insecureTLS" default:"false" doc:"Do not verify the store's certificate"`
}

func profileOf(env *function.Env) (*templates.Profile, error) {
	if env.Profile == nil {
		return nil, fault.New(fault.User, "the run has no location profile; give one, as profile: {name, namespace}")
	}
	return env.Profile, nil
}

// moving declares a function that needs a cluster. Its errors before the act
// begin with its name.
func moving[A any](m *maker, f catalogue.Function, bind func(ctx context.Context, env *function.Env, args A) (function.Act, error)) function.Function {
	return function.Prepared(f, func(ctx context.Context, env *function.Env, a A) (function.Act, func(), error) {
		if err := m.c.Need(); err != nil {
			return nil, nil, err
		}
		act, err := bind(ctx, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		return act, nil, nil
	})
}

// request begins the request of a call.
func (m *maker) request(env *function.Env, do string, a repositoryArgs) (*mover.Request, error) {
	profile, err := profileOf(env)
	if err != nil {
		return nil, err
	}
	q := &mover.Request{Do: do, Profile: *profile, Passphrase: a.EncryptionKey}
	q.Profile.SkipSSLVerify = q.Profile.SkipSSLVerify || a.InsecureTLS
	if q.Passphrase == "" {
		if q.Passphrase, err = m.key(); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// tag names the snapshot of a call: the same in every attempt of it.
func tag(env *function.Env, more ...string) string {
	return strings.Join(append([]string{env.Key}, more...), "-")
}

var version = catalogue.Output{Name: "version", Description: "Version of the outputs"}

// outputsVersion is Kanister's version of its outputs.
const outputsVersion = "v0.0.0"

func outputs(pairs ...string) (out []catalogue.Output) {
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, catalogue.Output{Name: pairs[i], Description: pairs[i+1]})
	}
	return out
}

var savedOutputs = append(outputs(
	"backupID", "Id of the snapshot", "backupTag", "Tag of the snapshot", "fileCount", "Number of files",
	"size", "Size of the files", "phySize", "What was sent to the location",
), version)

type locationArgs struct {
	Artifact string `arg:"artifact,required" doc:"Path in the location; all that is there and below is deleted"`
}

func locationDelete() function.Function {
	return function.New(catalogue.Function{
		Name: "LocationDelete", Family: family, Summary: "Deletes all that stands at a path of the location profile.",
		Profile: true, Idempotent: true, Timeout: 2 * time.Hour,
	}, func(ctx context.Context, env *function.Env, a locationArgs) (function.Outputs, error) {
		profile, err := profileOf(env)
		if err != nil {
			return nil, fmt.Errorf("LocationDelete: %w", err)
		}
		at := mover.Path(*profile, a.Artifact)
		if at == "" {
			return nil, fault.New(fault.User, "LocationDelete: artifact %q is all of the location; name a path in it", a.Artifact)
		}
		store, err := location.Open(ctx, *profile)
		if err != nil {
			return nil, err
		}
		defer func() { _ = store.Close() }()
		_, err = location.Remove(ctx, store, at, env.Heartbeat)
		return nil, err
	})
}
