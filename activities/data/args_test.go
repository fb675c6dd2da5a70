package data

import (
	"testing"

	"thaw/activities/cluster/movers"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function/functiontest"
)

type values = map[string]any

var (
	pods       = []string{"podOverride", "podAnnotations", "podLabels"}
	repository = []string{"encryptionKey", "insecureTLS"}
	verify     = map[string]string{"insecureTLS": "false"}
)

func list(l ...[]string) (all []string) {
	for _, s := range l {
		all = append(all, s...)
	}
	return all
}

func with(more map[string]string) map[string]string {
	all := map[string]string{"insecureTLS": "false"}
	for k, v := range more {
		all[k] = v
	}
	return all
}

// The arguments of Kanister's functions: names, defaults and outputs are those
// of its code and documentation (pkg/function, docs/functions.rst), decoded as
// weakly.
func TestArgumentsAreKanisters(t *testing.T) {
	all := Functions(&movers.Movers{})
	saved := []string{"backupID", "backupTag", "fileCount", "size", "phySize", "version"}

	backup := values{"namespace": "shop", "pod": "db-0", "container": "tools", "includePath": "/data", "backupArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "BackupData", functiontest.Declared{Required: backup, Optional: repository, Defaults: verify, Outputs: saved}, map[string]functiontest.Case[backupArgs]{
		"what it must have": {Want: backupArgs{Namespace: "shop", Pod: "db-0", Container: "tools", Include: "/data", Prefix: "bucket/db"}},
		"a text as a boolean": {Args: values{"insecureTLS": "true", "encryptionKey": 7}, Want: backupArgs{
			Namespace: "shop", Pod: "db-0", Container: "tools", Include: "/data", Prefix: "bucket/db", repositoryArgs: repositoryArgs{EncryptionKey: "7", InsecureTLS: true},
		}},
	})
	backupAll := values{"namespace": "shop", "container": "tools", "includePath": "/data", "backupArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "BackupDataAll", functiontest.Declared{
		Required: backupAll, Optional: list(repository, []string{"pods"}), Defaults: verify, Outputs: []string{"BackupAllInfo", "version"},
	}, map[string]functiontest.Case[backupAllArgs]{
		"pods as one text": {Args: values{"pods": "a b"}, Want: backupAllArgs{Namespace: "shop", Container: "tools", Include: "/data", Prefix: "bucket/db", Pods: "a b"}},
	})
	copying := values{"namespace": "shop", "volume": "data", "dataArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "CopyVolumeData", functiontest.Declared{
		Required: copying, Optional: list(repository, pods, []string{"image", "mountPath"}), Defaults: verify, Outputs: append([]string{"backupRoot", "backupArtifactLocation"}, saved...),
	}, map[string]functiontest.Case[copyArgs]{
		"parts of the pod": {
			Args: values{"podOverride": values{"hostNetwork": true}, "mountPath": "/m"},
			Want: copyArgs{Namespace: "shop", Volume: "data", Prefix: "bucket/db", MountPath: "/m", Args: podrun.Args{PodOverride: values{"hostNetwork": true}}},
		},
	})
	restore := values{"namespace": "shop", "image": "i", "backupArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "RestoreData", functiontest.Declared{
		Required: restore, Optional: list(repository, pods, []string{"restorePath", "pod", "volumes", "backupTag", "backupIdentifier", "backupPath"}),
		Defaults: with(map[string]string{"restorePath": "/"}),
	}, map[string]functiontest.Case[restoreArgs]{
		"its defaults": {Want: restoreArgs{Namespace: "shop", Image: "i", Prefix: "bucket/db", RestorePath: "/"}},
		"volumes": {
			Args: values{"volumes": values{"data": "/d"}, "backupIdentifier": 123},
			Want: restoreArgs{Namespace: "shop", Image: "i", Prefix: "bucket/db", RestorePath: "/", Volumes: map[string]string{"data": "/d"}, BackupIdentifier: "123"},
		},
	})
	restoreAll := values{"namespace": "shop", "image": "i", "backupArtifactPrefix": "bucket/db", "backupInfo": "{}"}
	functiontest.Arguments(t, all, "RestoreDataAll", functiontest.Declared{
		Required: restoreAll, Optional: list(repository, pods, []string{"restorePath", "pods"}), Defaults: with(map[string]string{"restorePath": "/"}),
	}, map[string]functiontest.Case[restoreAllArgs]{
		"its defaults": {Want: restoreAllArgs{Namespace: "shop", Image: "i", Prefix: "bucket/db", BackupInfo: "{}", RestorePath: "/"}},
	})
	deleting := values{"namespace": "shop", "backupArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "DeleteData", functiontest.Declared{
		Required: deleting, Optional: list(repository, pods, []string{"image", "backupID", "backupTag", "reclaimSpace"}),
		Defaults: with(map[string]string{"reclaimSpace": "false"}), Outputs: []string{"spaceFreed"},
	}, map[string]functiontest.Case[deleteArgs]{
		"a snapshot": {Args: values{"backupID": "a", "reclaimSpace": "true"}, Want: deleteArgs{Namespace: "shop", Prefix: "bucket/db", BackupID: "a", ReclaimSpace: true}},
	})
	deletingAll := values{"namespace": "shop", "backupArtifactPrefix": "bucket/db", "backupInfo": "{}"}
	functiontest.Arguments(t, all, "DeleteDataAll", functiontest.Declared{
		Required: deletingAll, Optional: list(repository, pods, []string{"image", "reclaimSpace"}), Defaults: with(map[string]string{"reclaimSpace": "false"}), Outputs: []string{"spaceFreed"},
	}, map[string]functiontest.Case[deleteAllArgs]{
		"its defaults": {Want: deleteAllArgs{Namespace: "shop", Prefix: "bucket/db", BackupInfo: "{}"}},
	})
	stats := values{"namespace": "shop", "backupArtifactPrefix": "bucket/db", "backupID": "a"}
	functiontest.Arguments(t, all, "BackupDataStats", functiontest.Declared{
		Required: stats, Optional: list(pods, []string{"image", "statsMode", "encryptionKey"}), Aliases: map[string]string{"mode": "statsMode"},
		Defaults: map[string]string{"statsMode": "restore-size"}, Outputs: []string{"mode", "fileCount", "size", "version"},
	}, map[string]functiontest.Case[statsArgs]{
		"the name in its documentation": {Args: values{"mode": "restore-size"}, Want: statsArgs{Namespace: "shop", Prefix: "bucket/db", BackupID: "a", StatsMode: "restore-size"}},
	})
	check := values{"backupArtifactPrefix": "bucket/db"}
	functiontest.Arguments(t, all, "CheckRepository", functiontest.Declared{
		Required: check, Optional: list(repository, pods, []string{"image"}), Defaults: verify, Outputs: []string{"passwordIncorrect", "repoUnavailable", "version"},
	}, map[string]functiontest.Case[checkArgs]{"its defaults": {Want: checkArgs{Prefix: "bucket/db"}}})
	functiontest.Arguments(t, all, "LocationDelete", functiontest.Declared{Required: values{"artifact": "a/b"}}, map[string]functiontest.Case[locationArgs]{
		"a path": {Want: locationArgs{Artifact: "a/b"}},
	})
}
