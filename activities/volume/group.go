package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/fault"
)

const (
	groupName         = "groupsnapshot.storage.k8s.io"
	defaultGroupClass = "groupsnapshot.storage.kubernetes.io/is-default-class"
	// labelGroup is on the claims of a group while it is cut: a group takes
	// its members by labels, and no other way.
	labelGroup = "thaw.dev/group"
)

// groupVersions are the versions of the API that have all that a cut needs,
// best first.
var groupVersions = []string{"v1", "v1beta2"}

// groupAPI is the group snapshot API, as this cluster serves it.
type groupAPI struct {
	c       *cluster.Cluster
	version string
}

// openGroups returns nil where the cluster has no group snapshots.
func openGroups(ctx context.Context, c *cluster.Cluster, env *function.Env) (*groupAPI, error) {
	for _, v := range groupVersions {
		_, err := get(ctx, env, func(context.Context) (*metav1.APIResourceList, error) {
			return c.Kube.Discovery().ServerResourcesForGroupVersion(groupName + "/" + v)
		})
		if err == nil {
			return &groupAPI{c, v}, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return nil, nil
}

func (g *groupAPI) resource(name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: groupName, Version: g.version, Resource: name}
}

// group is the cut of all volumes by one VolumeGroupSnapshot.
type group struct {
	*groupAPI
	class     class
	name      string
	labelled  bool
	snapshots <-chan event[*unstructured.Unstructured]
	contents  <-chan event[*unstructured.Unstructured]
}

// prepareGroup returns nil where each volume gets a snapshot of its own.
func prepareGroup(ctx context.Context, c *cluster.Cluster, env *function.Env, name string, parts []*part) (*group, error) {
	if name == "" && len(parts) < 2 {
		return nil, nil
	}
	drivers := map[string]bool{}
	for _, p := range parts {
		drivers[p.Driver] = true
	}
	if len(drivers) != 1 {
		if name == "" {
			return nil, nil
		}
		return nil, fault.New(fault.User, "groupSnapshotClass %q: the volumes are of several drivers; cut them apart, or set groupSnapshotClass: none", name)
	}
	api, err := openGroups(ctx, c, env)
	if err != nil {
		return nil, err
	}
	if api == nil {
		if name == "" {
			return nil, nil
		}
		return nil, fault.New(fault.User, "groupSnapshotClass %q: the cluster has no group snapshots (no API %s of version %s)", name, groupName, strings.Join(groupVersions, " or "))
	}
	l, err := get(ctx, env, func(ctx context.Context) (*unstructured.UnstructuredList, error) {
		return c.Dynamic.Resource(api.resource("volumegroupsnapshotclasses")).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	var classes []class
	of := 0
	for i := range l.Items {
		k, err := as[groupv1.VolumeGroupSnapshotClass](&l.Items[i])
		if err != nil {
			return nil, err
		}
		classes = append(classes, class{k.Name, k.Driver, k.Annotations[defaultGroupClass] == "true", k.DeletionPolicy == snapshotv1.VolumeSnapshotContentRetain})
		if drivers[k.Driver] {
			of++
		}
	}
	if name == "" && of == 0 {
		return nil, nil
	}
	chosen, err := choose(classes, name, parts[0].Driver, "VolumeGroupSnapshotClass", "groupSnapshotClass")
	if err != nil {
		return nil, fault.New(fault.User, "%w", err)
	}
	g := &group{groupAPI: api, class: chosen, name: named(strings.ToLower(env.Target.Name), env.Key)}
	if env.Target.Name == "" {
		g.name = env.Key
	}
	for _, p := range parts {
		p.Group, p.Snapshot, p.SnapshotClass = g.name, "", chosen.name
	}
	return g, nil
}

func (g *group) open(ctx, own context.Context, t *cut) error {
	had, err := g.get(ctx, t.env, t.namespace)
	if err != nil {
		return err
	}
	existing := had != nil
	if existing {
		if !cluster.MadeBy(had, t.env.Key) {
			return another("VolumeGroupSnapshot", types.NamespacedName{Namespace: t.namespace, Name: g.name}, had.GetAnnotations())
		}
		if had.GetDeletionTimestamp() != nil {
			if err := goneOf(ctx, t.c, t.env, g.resource("volumegroupsnapshots"), t.namespace, g.name, had.GetUID()); err != nil {
				return fmt.Errorf("a former attempt of it is being deleted: %w", err)
			}
		}
	}
	g.snapshots, err = follow(own, g.source("volumegroupsnapshots", t.namespace, func(o *unstructured.Unstructured) bool { return o.GetName() == g.name }), existing, t.env.Heartbeat)
	if err != nil {
		return err
	}
	g.contents, err = follow(own, g.source("volumegroupsnapshotcontents", "", func(o *unstructured.Unstructured) bool {
		name, _, _ := unstructured.NestedString(o.Object, "spec", "volumeGroupSnapshotRef", "name")
		namespace, _, _ := unstructured.NestedString(o.Object, "spec", "volumeGroupSnapshotRef", "namespace")
		return name == g.name && namespace == t.namespace
	}), existing, t.env.Heartbeat)
	return err
}

func (g *group) source(resource, namespace string, mine func(*unstructured.Unstructured) bool) source[*unstructured.Unstructured] {
	r := g.c.Dynamic.Resource(g.resource(resource)).Namespace(namespace)
	return source[*unstructured.Unstructured]{
		list: func(ctx context.Context, o metav1.ListOptions) ([]*unstructured.Unstructured, string, error) {
			l, err := r.List(ctx, o)
			if err != nil {
				return nil, "", err
			}
			return pointers(l.Items), l.GetResourceVersion(), nil
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return r.Watch(ctx, o) },
		mine:  mine,
	}
}

func (g *group) get(ctx context.Context, env *function.Env, namespace string) (*unstructured.Unstructured, error) {
	o, err := get(ctx, env, func(ctx context.Context) (*unstructured.Unstructured, error) {
		return g.c.Dynamic.Resource(g.resource("volumegroupsnapshots")).Namespace(namespace).Get(ctx, g.name, metav1.GetOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// take makes the group snapshot, and waits until it is cut: its content has
// the handles of all members then. Their VolumeSnapshots come later.
func (g *group) take(ctx context.Context, t *cut) error {
	if err := g.label(ctx, t, t.env.Key); err != nil {
		return err
	}
	uid, err := g.create(ctx, t)
	if err != nil {
		return err
	}
	last := ""
	hear := func(e *snapshotv1.VolumeSnapshotError) error {
		message, final := said(e)
		if message != "" {
			last = message
		}
		if final {
			return fault.New(fault.Permanent, "VolumeGroupSnapshot %s/%s: driver %s: %s", t.namespace, g.name, g.class.driver, message)
		}
		return nil
	}
	for {
		select {
		case ev := <-g.contents:
			content, err := as[groupv1.VolumeGroupSnapshotContent](ev.object)
			if err != nil {
				return err
			}
			if ev.gone || content.Spec.VolumeGroupSnapshotRef.UID != uid || content.Status == nil {
				continue
			}
			done, err := g.learn(content, t.parts)
			if done || err != nil {
				return err
			}
			if err := hear(content.Status.Error); err != nil {
				return err
			}
		case ev := <-g.snapshots:
			s, err := as[groupv1.VolumeGroupSnapshot](ev.object)
			if err != nil {
				return err
			}
			if s.UID != uid {
				continue
			}
			if ev.gone || s.DeletionTimestamp != nil {
				return fault.New(fault.Permanent, "somebody deleted VolumeGroupSnapshot %s/%s", t.namespace, g.name)
			}
			if s.Status != nil {
				if err := hear(s.Status.Error); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			waiting := map[*part]bool{}
			for _, p := range t.parts {
				p.last = last
				waiting[p] = true
			}
			return t.late(ctx, waiting)
		}
	}
}

// learn takes what the group's content says of the cut.
func (g *group) learn(content *groupv1.VolumeGroupSnapshotContent, parts []*part) (done bool, err error) {
	st := content.Status
	if st.VolumeGroupSnapshotHandle == nil || st.CreationTime == nil || len(st.VolumeSnapshotInfoList) == 0 {
		return false, nil
	}
	for _, p := range parts {
		i := slices.IndexFunc(st.VolumeSnapshotInfoList, func(s groupv1.VolumeSnapshotInfo) bool { return s.VolumeHandle == p.volumeHandle })
		if i < 0 {
			return false, fault.New(fault.Permanent, "VolumeGroupSnapshot %s was cut without pvc %s", g.name, p.claim())
		}
		info := st.VolumeSnapshotInfoList[i]
		p.Handle, p.cut = info.SnapshotHandle, st.CreationTime.Time
		if info.CreationTime != nil {
			p.cut = time.Unix(0, *info.CreationTime)
		}
		if n := deref(info.RestoreSize); n > 0 {
			p.RestoreSize = bytes(n)
		}
	}
	return true, nil
}

func (g *group) create(ctx context.Context, t *cut) (types.UID, error) {
	s := &groupv1.VolumeGroupSnapshot{
		TypeMeta:   metav1.TypeMeta{APIVersion: groupName + "/" + g.version, Kind: "VolumeGroupSnapshot"},
		ObjectMeta: metav1.ObjectMeta{Name: g.name, Namespace: t.namespace, Labels: maps.Clone(t.labels)},
		Spec: groupv1.VolumeGroupSnapshotSpec{
			Source:                       groupv1.VolumeGroupSnapshotSource{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{labelGroup: t.env.Key}}},
			VolumeGroupSnapshotClassName: &g.class.name,
		},
	}
	mark(s, t.env)
	o, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s)
	if err != nil {
		return "", err
	}
	made, err := get(ctx, t.env, func(ctx context.Context) (*unstructured.Unstructured, error) {
		return t.c.Dynamic.Resource(g.resource("volumegroupsnapshots")).Namespace(t.namespace).Create(ctx, &unstructured.Unstructured{Object: o}, metav1.CreateOptions{})
	})
	if apierrors.IsAlreadyExists(err) {
		if made, err = g.get(ctx, t.env, t.namespace); err == nil && (made == nil || !cluster.MadeBy(made, t.env.Key)) {
			return "", fault.New(fault.Permanent, "VolumeGroupSnapshot %s/%s exists, and another call made it", t.namespace, g.name)
		}
	}
	if err != nil {
		return "", fmt.Errorf("VolumeGroupSnapshot %s/%s: %w", t.namespace, g.name, err)
	}
	return made.GetUID(), nil
}

// label marks the claims of the group, or takes the mark away (value nil).
func (g *group) label(ctx context.Context, t *cut, value any) error {
	patch := merge(map[string]any{"metadata": map[string]any{"labels": map[string]any{labelGroup: value}}})
	g.labelled = value != nil
	errs := make(chan error, len(t.parts))
	for _, p := range t.parts {
		go func() {
			errs <- cluster.Insist(ctx, t.env.Heartbeat, func(ctx context.Context) error {
				_, err := t.c.Kube.CoreV1().PersistentVolumeClaims(t.namespace).Patch(ctx, p.PVC, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			})
		}()
	}
	var all []error
	for _, p := range t.parts {
		err := <-errs
		if value == nil && apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			all = append(all, fmt.Errorf("label the claims of a group (%s and others): %w", p.PVC, err))
		}
	}
	return together(all)
}

// remove asks for the deletion of a group that was not cut.
func (g *group) remove(ctx context.Context, t *cut) (types.UID, error) {
	o, err := g.get(ctx, t.env, t.namespace)
	if err != nil || o == nil || !cluster.MadeBy(o, t.env.Key) {
		return "", err
	}
	return o.GetUID(), g.dismiss(ctx, t.env, o)
}

// release takes the labels off the claims.
func (g *group) release(t *cut) {
	if !g.labelled {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), afterwards)
	defer cancel()
	if err := g.label(ctx, t, nil); err != nil && t.env.Log != nil {
		t.env.Log.Warn("claims keep the label of a group snapshot", "label", labelGroup, "error", err)
	}
}

// dismiss asks for the deletion of a group and of all its members, in the
// storage too.
func (g *groupAPI) dismiss(ctx context.Context, env *function.Env, o *unstructured.Unstructured) error {
	if content := groupContentOf(o); content != "" {
		api := g.c.Dynamic.Resource(g.resource("volumegroupsnapshotcontents"))
		had, err := get(ctx, env, func(ctx context.Context) (*unstructured.Unstructured, error) {
			return api.Get(ctx, content, metav1.GetOptions{})
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		policy := ""
		if err == nil {
			policy, _, _ = unstructured.NestedString(had.Object, "spec", "deletionPolicy")
		}
		if policy == string(snapshotv1.VolumeSnapshotContentRetain) {
			patch := merge(map[string]any{"spec": map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentDelete}})
			err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
				_, err := api.Patch(ctx, content, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			})
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	uid := o.GetUID()
	err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		return g.c.Dynamic.Resource(g.resource("volumegroupsnapshots")).Namespace(o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// groupContentOf names the content of a group: the controller's name for it is
// fixed.
func groupContentOf(o *unstructured.Unstructured) string {
	if name, _, _ := unstructured.NestedString(o.Object, "status", "boundVolumeGroupSnapshotContentName"); name != "" {
		return name
	}
	return "groupsnapcontent-" + string(o.GetUID())
}

// groupBeingDeleted is to the content of a group what beingDeleted is to that
// of a snapshot.
const groupBeingDeleted = "groupsnapshot.storage.kubernetes.io/volumegroupsnapshot-being-deleted"

// vanish waits until a group is gone, and makes sure that its content goes
// too. The controller forgets one that the status of the group did not name
// yet: the driver would be asked for it again and again, and cut it at last.
func (g *groupAPI) vanish(ctx context.Context, env *function.Env, namespace, name string, uid types.UID) error {
	resource, content := g.resource("volumegroupsnapshotcontents"), "groupsnapcontent-"+string(uid)
	err := reminding(ctx, g.c, resource, content, func() error {
		return goneOf(ctx, g.c, env, g.resource("volumegroupsnapshots"), namespace, name, uid)
	})
	if err != nil {
		return err
	}
	api := g.c.Dynamic.Resource(resource)
	patch := merge(map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{groupBeingDeleted: "yes"}},
		"spec":     map[string]any{"deletionPolicy": snapshotv1.VolumeSnapshotContentDelete},
	})
	err = cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
		if _, err := api.Patch(ctx, content, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		return api.Delete(ctx, content, metav1.DeleteOptions{})
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("VolumeGroupSnapshotContent %s: %w", content, err)
	}
	return reminding(ctx, g.c, resource, content, func() error { return goneOf(ctx, g.c, env, resource, "", content, "") })
}

// removeGroup deletes a group with its members, and waits until they are gone.
func removeGroup(ctx context.Context, c *cluster.Cluster, env *function.Env, at types.NamespacedName) error {
	api, err := openGroups(ctx, c, env)
	if err != nil || api == nil {
		return err // without the API there are no groups any more
	}
	g := &group{groupAPI: api, name: at.Name}
	o, err := g.get(ctx, env, at.Namespace)
	if err != nil {
		return err
	}
	if o != nil {
		list, err := get(ctx, env, func(ctx context.Context) (*snapshotv1.VolumeSnapshotList, error) {
			return c.Snapshots.SnapshotV1().VolumeSnapshots(at.Namespace).List(ctx, metav1.ListOptions{})
		})
		if err != nil {
			return err
		}
		for i := range list.Items {
			s := &list.Items[i]
			if !memberOf(s, at.Name) {
				continue
			}
			content, err := getContent(ctx, c, env, contentOf(s))
			if err != nil {
				return err
			}
			if content != nil {
				if err := unretain(ctx, c, env, content); err != nil {
					return err
				}
			}
		}
		if err := g.dismiss(ctx, env, o); err != nil {
			return err
		}
		if err := g.vanish(ctx, env, at.Namespace, at.Name, o.GetUID()); err != nil {
			return err
		}
	}
	return cluster.Until(ctx, c, cluster.Watched{Resource: snapshotResource, Namespace: at.Namespace, Note: env.Heartbeat}, func(items []snapshotv1.VolumeSnapshot) (string, error) {
		left := 0
		for i := range items {
			if memberOf(&items[i], at.Name) {
				left++
			}
		}
		if left > 0 {
			return fmt.Sprintf("%d of its members are still there", left), nil
		}
		return "", nil
	})
}

// groupsOfRun finds the groups that this run made.
func groupsOfRun(ctx context.Context, c *cluster.Cluster, env *function.Env, namespace string) (volumes []Volume, err error) {
	api, err := openGroups(ctx, c, env)
	if err != nil || api == nil {
		return nil, err
	}
	l, err := get(ctx, env, func(ctx context.Context) (*unstructured.UnstructuredList, error) {
		return c.Dynamic.Resource(api.resource("volumegroupsnapshots")).Namespace(namespace).List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	for i := range l.Items {
		if o := &l.Items[i]; ofRun(o, env) {
			volumes = append(volumes, Volume{Namespace: namespace, Group: o.GetName()})
		}
	}
	return volumes, nil
}

// memberOf reports whether a snapshot is of that group.
func memberOf(s *snapshotv1.VolumeSnapshot, group string) bool {
	if s.Status != nil && deref(s.Status.VolumeGroupSnapshotName) == group {
		return true
	}
	return slices.ContainsFunc(s.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == "VolumeGroupSnapshot" && o.Name == group
	})
}

func as[T any](o *unstructured.Unstructured) (*T, error) {
	v := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, v); err != nil {
		return nil, fault.New(fault.Permanent, "%s %s: %w", o.GetKind(), o.GetName(), err)
	}
	return v, nil
}
