// Package volume takes CSI snapshots of the volumes of a Kubernetes workload,
// copies them to a location, and makes volumes of either again. It knows one
// cluster (package cluster), and no other family. Start with Functions; the cut itself is in cut.go.
package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const (
	family = "volume"
	// labelTemporary is on snapshots that RestoreVolumes makes in another
	// namespace, until the claims made of them are bound; and on claims that
	// ExportVolumes reads.
	labelTemporary = "thaw.dev/temporary"
)

// Functions returns the functions of this family. The cluster may be nil: each
// says then that the worker has none.
func Functions(c *cluster.Cluster, m *movers.Movers) []function.Function {
	return []function.Function{
		createCSISnapshot(c),
		createCSISnapshotStatic(c),
		restoreCSISnapshot(c),
		deleteCSISnapshot(c),
		deleteCSISnapshotContent(c),
		cutVolumes(c),
		waitSnapshotsReady(c),
		exportVolumes(c, m),
		restoreVolumes(c, m),
		returnVolumes(c),
		dropReplacedVolumes(c),
		deleteSnapshots(c),
		deleteExports(m),
	}
}

// The resources of this family.
var (
	snapshotResource = snapshotv1.SchemeGroupVersion.WithResource("volumesnapshots")
	contentResource  = snapshotv1.SchemeGroupVersion.WithResource("volumesnapshotcontents")
	claimResource    = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	volumeResource   = schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumes"}
)

// The rules of what several functions do.
func snapshotRule(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Group: snapshotv1.GroupName, Resources: []string{"volumesnapshots"}, Verbs: verbs}
}

func contentRule(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Group: snapshotv1.GroupName, Resources: []string{"volumesnapshotcontents"}, Verbs: verbs, Cluster: true}
}

func claimRule(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Resources: []string{"persistentvolumeclaims"}, Verbs: verbs}
}

func volumeRule(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Resources: []string{"persistentvolumes"}, Verbs: verbs, Cluster: true}
}

func podRule(verbs ...string) catalogue.Rule {
	return catalogue.Rule{Resources: []string{"pods"}, Verbs: verbs}
}

// Volume is one volume that was cut: an element of the output `volumes` of
// CutVolumes, and all that it takes to restore or to delete it.
type Volume struct {
	PVC       string `json:"pvc"`
	Namespace string `json:"namespace"`
	// Snapshot and Content are empty for a member of a group that was just
	// cut: its controller names them a moment later, WaitSnapshotsReady knows.
	Snapshot string `json:"snapshot,omitempty"`
	Content  string `json:"content,omitempty"`
	Group    string `json:"group,omitempty"` // the VolumeGroupSnapshot that it is a member of
	Handle   string `json:"handle,omitempty"`
	Driver   string `json:"driver,omitempty"`

	SnapshotClass string            `json:"snapshotClass,omitempty"`
	StorageClass  string            `json:"storageClass,omitempty"`
	Size          string            `json:"size,omitempty"`
	RestoreSize   string            `json:"restoreSize,omitempty"`
	AccessModes   []string          `json:"accessModes,omitempty"`
	VolumeMode    string            `json:"volumeMode,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	CutAt         string            `json:"cutAt,omitempty"`
	// Export is where the location has its data; nil where it was not exported.
	Export *Export `json:"export,omitempty"`

	temporary bool // made for a restore, and not to outlive it
}

func (v Volume) claim() types.NamespacedName {
	return types.NamespacedName{Namespace: v.Namespace, Name: v.PVC}
}

func (v Volume) snapshot() types.NamespacedName {
	return types.NamespacedName{Namespace: v.Namespace, Name: v.Snapshot}
}

// decode reads an argument that is what another function put out: data, or
// the text that {{ toJson ... }} makes of it. Nothing at all is none.
func decode[T any](name string, raw any) ([]T, error) {
	hint := fmt.Sprintf("give it as '{{ toJson .Phases.NAME.Output.%s }}'", name)
	text, isText := raw.(string)
	if !isText {
		b, err := json.Marshal(raw)
		if err != nil {
			return nil, fault.New(fault.User, "%s: %w; %s", name, err, hint)
		}
		text = string(b)
	}
	text = strings.TrimSpace(text)
	if text == "" || text == "null" || text == `""` {
		return nil, nil
	}
	if strings.HasPrefix(text, "{") {
		text = "[" + text + "]"
	}
	var list []T
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fault.New(fault.User, "%s: not what the function puts out (%w); %s", name, err, hint)
	}
	return list, nil
}

// data returns a value as outputs hold it: what JSON knows, and nothing else.
func data(v any) any {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("output of package volume: %v", err)) // plain structs of strings: a bug
	}
	var out any
	_ = json.Unmarshal(b, &out)
	return out
}

// named makes the name of an object that a call makes: that of what it is for,
// and the call's key, so that another attempt of the call finds it, and no
// other call does.
func named(of, key string) string {
	const longest = 253
	if over := len(of) + 1 + len(key) - longest; over > 0 {
		sum := sha256.Sum256([]byte(of))
		short := hex.EncodeToString(sum[:4])
		of = strings.TrimRight(of[:len(of)-over-1-len(short)], "-.") + "-" + short
	}
	return of + "-" + key
}

// mark puts Thaw's marks on an object that a call makes.
func mark(o metav1.Object, env *function.Env) {
	cluster.Mark(o, env.Key, env.Run.ID, env.Owner)
	annotations := o.GetAnnotations()
	annotations[cluster.AnnotationRunID] = env.Run.Original
	o.SetAnnotations(annotations)
}

// ofRun reports whether this very run made an object, in whichever call.
func ofRun(o metav1.Object, env *function.Env) bool {
	a := o.GetAnnotations()
	return env.Run.Original != "" && a[cluster.AnnotationCall] != "" && a[cluster.AnnotationRun] == env.Run.ID && a[cluster.AnnotationRunID] == env.Run.Original
}

// another says whose an object is that has the name that ours should have.
func another(kind string, at types.NamespacedName, annotations map[string]string) error {
	whose := "Thaw did not make it"
	if call := annotations[cluster.AnnotationCall]; call != "" {
		whose = fmt.Sprintf("another call made it (%s of run %q)", call, annotations[cluster.AnnotationRun])
	}
	return fault.New(fault.Permanent, "%s %s exists, and %s; delete it, or choose another name", kind, at, whose)
}

// speak tells people how far a call is.
func speak(env *function.Env, format string, args ...any) {
	if env.Heartbeat != nil {
		env.Heartbeat(fmt.Sprintf(format, args...))
	}
}

// whole is what several faults are, in one error. None is nil.
func whole(doing string, faults []string) error {
	if len(faults) == 0 {
		return nil
	}
	return fault.New(fault.User, "%s: %s", doing, strings.Join(faults, "; "))
}

// deref returns what a pointer points to, or the zero value.
func deref[T any](p *T) T {
	var v T
	if p != nil {
		v = *p
	}
	return v
}

// stamp writes a moment as outputs have it.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// bytes writes a size as Kubernetes does.
func bytes(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
