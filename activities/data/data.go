// Package data is the family of functions that move data to a location and
// back: Kanister's BackupData, CopyVolumeData, RestoreData, DeleteData and
// their like, with its names, arguments and outputs. The data is moved by
// package mover, beside it: in a container that is there, or in a pod made for
// it (package movers). Requests are built in backup.go and restore.go.
package data

import (
	"context"
	"fmt"
	"strings"
	"time"

	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/internal/location"
)

const family = "data"

// Functions of this family.
func Functions(movers *movers.Movers) []function.Function {
	m := &maker{movers}
	return []function.Function{
		m.backupData(), m.backupDataAll(), m.copyVolumeData(), m.restoreData(), m.restoreDataAll(),
		m.deleteData(), m.deleteDataAll(), m.backupDataStats(), m.checkRepository(), locationDelete(),
	}
}

// maker makes functions. It keeps no state of calls.
type maker struct{ *movers.Movers }

// dataCall is how long moving data may take; Kanister has no such limit.
const dataCall = 24 * time.Hour

// repositoryArgs are those of every function that opens a repository.
type repositoryArgs struct {
	EncryptionKey string `arg:"encryptionKey" doc:"Passphrase of the repository; the worker's secretsKey where there is none"`
	InsecureTLS   bool   `arg:"insecureTLS" default:"false" doc:"Do not verify the store's certificate"`
}

// moving declares a function that needs a cluster. Its errors before the act
// begin with its name.
func moving[A any](m *maker, f catalogue.Function, bind func(ctx context.Context, env *function.Env, args A) (function.Act, error)) function.Function {
	return function.Prepared(f, func(ctx context.Context, env *function.Env, a A) (function.Act, func(), error) {
		if err := m.Cluster.Need(); err != nil {
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
	q, err := m.Request(env, do, a.EncryptionKey)
	if err != nil {
		return nil, err
	}
	q.Profile.SkipSSLVerify = q.Profile.SkipSSLVerify || a.InsecureTLS
	return q, nil
}

// tag names the snapshot of a call: the same in every attempt of it.
func tag(env *function.Env, more ...string) string {
	return strings.Join(append([]string{env.Key}, more...), "-")
}

var version = catalogue.Output{Name: movers.Version, Description: "Version of the outputs"}

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
		if err := movers.NeedProfile(env); err != nil {
			return nil, fmt.Errorf("LocationDelete: %w", err)
		}
		at := mover.Path(*env.Profile, a.Artifact)
		if at == "" {
			return nil, fault.New(fault.User, "LocationDelete: artifact %q is all of the location; name a path in it", a.Artifact)
		}
		store, err := location.Open(ctx, *env.Profile)
		if err != nil {
			return nil, err
		}
		defer func() { _ = store.Close() }()
		_, err = location.Remove(ctx, store, at, env.Heartbeat)
		return nil, err
	})
}
