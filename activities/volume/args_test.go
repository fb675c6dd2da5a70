package volume

import (
	"testing"

	"thaw/activities/cluster/movers"
	"thaw/activities/function/functiontest"
)

type values = map[string]any

// The arguments of Kanister's functions on CSI snapshots: names, defaults and
// outputs are those of its code, with what its documentation calls otherwise.
func TestArgumentsAreKanisters(t *testing.T) {
	all := Functions(nil, &movers.Movers{})
	create := values{"pvc": "data", "namespace": "shop", "snapshotClass": "fast"}
	functiontest.Arguments(t, all, "CreateCSISnapshot", functiontest.Declared{
		Required: create, Optional: []string{"name", "labels"}, Outputs: []string{"name", "pvc", "namespace", "restoreSize", "snapshotContent"},
	}, map[string]functiontest.Case[createArgs]{
		"a name of its own": {Want: createArgs{PVC: "data", Namespace: "shop", SnapshotClass: "fast"}},
		"a name and labels": {Args: values{"name": "s", "labels": values{"n": 1, "a": "b"}}, Want: createArgs{Name: "s", PVC: "data", Namespace: "shop", SnapshotClass: "fast", Labels: map[string]string{"n": "1", "a": "b"}}},
	})
	static := values{"name": "s", "namespace": "shop", "driver": "d", "snapshotHandle": "h", "snapshotClass": "fast"}
	want := staticArgs{Name: "s", Namespace: "shop", Driver: "d", SnapshotHandle: "h", SnapshotClass: "fast"}
	functiontest.Arguments(t, all, "CreateCSISnapshotStatic", functiontest.Declared{
		Required: static, Aliases: map[string]string{"handle": "snapshotHandle"}, Outputs: []string{"name", "namespace", "restoreSize", "snapshotContent"},
	}, map[string]functiontest.Case[staticArgs]{"all": {Want: want}})
	t.Run("the documentation's name of the handle", func(t *testing.T) {
		delete(static, "snapshotHandle")
		functiontest.Arguments(t, all, "CreateCSISnapshotStatic", functiontest.Declared{
			Required: values{"name": "s", "namespace": "shop", "driver": "d", "snapshotHandle": "h", "snapshotClass": "fast"}, Outputs: []string{"name", "namespace", "restoreSize", "snapshotContent"},
		}, map[string]functiontest.Case[staticArgs]{})
		for _, f := range all {
			if f.Name == "CreateCSISnapshotStatic" {
				var got staticArgs
				static["handle"] = "h"
				if err := f.Decode(static, &got); err != nil || got != want {
					t.Fatalf("%+v, %v", got, err)
				}
			}
		}
	})
	restore := values{"name": "s", "pvc": "data", "namespace": "shop", "storageClass": "fast", "restoreSize": "1Gi"}
	plain := restoreSnapshotArgs{Name: "s", PVC: "data", Namespace: "shop", StorageClass: "fast", RestoreSize: "1Gi", AccessModes: []string{"ReadWriteOnce"}, VolumeMode: "Filesystem"}
	more := plain
	more.AccessModes, more.VolumeMode, more.Labels, more.RestoreSize = []string{"ReadWriteMany", "ReadOnlyMany"}, "Block", map[string]string{"a": "b"}, "1073741824"
	one := plain
	one.AccessModes = []string{"ReadWriteMany"}
	functiontest.Arguments(t, all, "RestoreCSISnapshot", functiontest.Declared{
		Required: restore, Optional: []string{"accessModes", "volumeMode", "labels"}, Defaults: map[string]string{"accessModes": "ReadWriteOnce", "volumeMode": "Filesystem"},
	}, map[string]functiontest.Case[restoreSnapshotArgs]{
		"its defaults":                   {Want: plain},
		"all of them, a number for size": {Args: values{"accessModes": []any{"ReadWriteMany", "ReadOnlyMany"}, "volumeMode": "Block", "labels": values{"a": "b"}, "restoreSize": 1073741824}, Want: more},
		"one mode as a list":             {Args: values{"accessModes": "ReadWriteMany"}, Want: one},
	})
	functiontest.Arguments(t, all, "DeleteCSISnapshot", functiontest.Declared{
		Required: values{"name": "s", "namespace": "shop"}, Outputs: []string{"name", "namespace", "snapshotContent"},
	}, map[string]functiontest.Case[deleteSnapshotArgs]{"both": {Want: deleteSnapshotArgs{Name: "s", Namespace: "shop"}}})
	functiontest.Arguments(t, all, "DeleteCSISnapshotContent", functiontest.Declared{Required: values{"name": "c"}}, map[string]functiontest.Case[deleteContentArgs]{
		"a name": {Want: deleteContentArgs{Name: "c"}},
	})
}
