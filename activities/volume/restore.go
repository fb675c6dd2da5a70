package volume

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const (
	// oneLook bounds what is only looked up to say more in an error.
	oneLook = 5 * time.Second
	// goBack is how long a failed restore tries to put back what it replaced.
	goBack = 5 * time.Minute
)

type restoreArgs struct {
	Volumes      any               `arg:"volumes,required" type:"object" doc:"what CutVolumes or WaitSnapshotsReady put out"`
	Namespace    string            `arg:"namespace" doc:"where the claims are made (default: where they were)"`
	StorageClass any               `arg:"storageClass" type:"any" doc:"StorageClass of the claims: one name, or a map of former to new (default: what they had)"`
	Names        map[string]string `arg:"names" doc:"new names of claims, by former name (default: what they had)"`
	Replace      bool              `arg:"replace" default:"false" doc:"take the place of claims that exist; their volumes are kept, for ReturnVolumes or DropReplacedVolumes"`
	Labels       map[string]string `arg:"labels" doc:"labels of the claims, besides those that they had"`
	FromLocation bool              `arg:"fromLocation" default:"false" doc:"of what ExportVolumes copied, also where the snapshots are there"`
	Timeout      time.Duration     `arg:"timeout" default:"2h" doc:"how long the snapshots may take to be ready and the claims to be bound"`
	FillTimeout  time.Duration     `arg:"fillTimeout" default:"24h" doc:"how long volumes may take to be filled from the location"`
	movingArgs   `arg:",squash"`
}

// restoreVolumes makes claims of snapshots. It looks at everything before it
// touches anything; what it replaces it keeps, and where it fails it puts that
// back.
//
// Idempotent: what it makes has names of its own or its mark, and what it
// replaces carries what it takes to put it back, so that another attempt goes
// on where one died.
func restoreVolumes(c *cluster.Cluster, m *movers.Movers) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "RestoreVolumes", Family: family,
		Summary: "Make claims of the snapshots of a cut, in their namespace or another; of what ExportVolumes copied, where a snapshot is not there any more. With replace they take the place of claims that exist: no pod may use those, and their volumes are kept. Where it fails, all is put back as it was.",
		Outputs: []catalogue.Output{
			{Name: "claims", Description: "list of what was made: namespace, name, snapshot, storageClass, size, volume, bound"},
			{Name: "bound", Description: "true where all claims are bound; false where a class waits for the first pod"},
			{Name: "replaced", Description: "list of what the claims took the place of, for ReturnVolumes and DropReplacedVolumes"},
			{Name: "temporary", Description: "snapshots in the other namespace that claims still need until a first pod binds them; for DeleteSnapshots, later. Empty otherwise"},
			{Name: "warnings", Description: "list of what may keep a database from starting on a restored volume"},
		},
		MayUseProfile: true, Idempotent: true, Reattach: true,
		Timeout: exportCall,
		Rules: append([]catalogue.Rule{
			snapshotRule("get", "list", "watch", "create", "delete"),
			contentRule("get", "list", "watch", "create", "patch", "delete"),
			claimRule("get", "list", "watch", "create", "delete"),
			volumeRule("get", "list", "watch", "patch"),
			podRule("list"),
			{Resources: []string{"events"}, Verbs: []string{"list"}},
			{Group: "storage.k8s.io", Resources: []string{"storageclasses"}, Verbs: []string{"list"}, Cluster: true},
			{Group: "apps", Resources: []string{"statefulsets", "deployments"}, Verbs: []string{"list"}},
		}, movers.RulesWithoutClaims...),
	}, func(ctx context.Context, env *function.Env, a restoreArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		doing := "restore volumes"
		r, err := prepareRestore(ctx, c, m, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := r.run(ctx)
			return out, wrap(doing, err)
		}, nil, nil
	})
}

// restored is one claim that is to be made.
type restored struct {
	volume Volume // where it comes from
	spec   claimSpec
	waits  bool                          // its class binds it to the first pod
	former *corev1.PersistentVolumeClaim // to replace
	static *Volume                       // the snapshot made for it in another namespace
	isNew  *corev1.PersistentVolumeClaim
	// imported: filled from the location.
	imported bool
}

type restore struct {
	c        *cluster.Cluster
	env      *function.Env
	m        *movers.Movers
	args     restoreArgs
	request  *mover.Request // of what is filled from the location
	claims   []*restored
	replaced map[types.NamespacedName]Replaced
}

// prepareRestore looks at everything, and says all that stands against it.
func prepareRestore(ctx context.Context, c *cluster.Cluster, m *movers.Movers, env *function.Env, a restoreArgs) (*restore, error) {
	volumes, err := decode[Volume]("volumes", a.Volumes)
	if err != nil {
		return nil, err
	}
	if len(volumes) == 0 {
		return nil, fault.New(fault.User, "volumes: there are none")
	}
	classOf, err := storageClassOf(a.StorageClass)
	if err != nil {
		return nil, err
	}
	r := &restore{c: c, m: m, env: env, args: a}
	var faults []string
	r.claims, faults = planRestore(volumes, a, classOf)
	if why := a.check(); why != "" { // else no volume would ever have its turn
		faults = append(faults, why)
	}
	if len(faults) > 0 {
		return nil, whole("volumes", faults)
	}
	l, err := get(ctx, env, func(ctx context.Context) (*storagev1.StorageClassList, error) {
		return c.Kube.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	})
	if err != nil {
		return nil, err
	}
	if r.replaced, err = replacedBy(ctx, c, env, env.Key, ""); err != nil {
		return nil, err
	}
	if err := r.imports(ctx); err != nil {
		return nil, err
	}
	pods := map[string]map[string][]string{}
	for _, t := range r.claims {
		at := t.spec.at
		i := slices.IndexFunc(l.Items, func(k storagev1.StorageClass) bool { return k.Name == t.spec.storageClass })
		switch {
		case i < 0:
			faults = append(faults, fmt.Sprintf("claim %s: StorageClass %q: not found; set storageClass", at, t.spec.storageClass))
		case !t.imported && t.volume.Driver != "" && l.Items[i].Provisioner != t.volume.Driver:
			faults = append(faults, fmt.Sprintf("claim %s: StorageClass %q is of driver %s, the snapshot is of %s", at, t.spec.storageClass, l.Items[i].Provisioner, t.volume.Driver))
		default:
			t.waits = deref(l.Items[i].VolumeBindingMode) == storagev1.VolumeBindingWaitForFirstConsumer
		}
		had, err := getClaim(ctx, c, env, at)
		if err != nil {
			return nil, err
		}
		_, ours := r.replaced[at] // by another attempt, which died before the claim was gone
		if had == nil || cluster.MadeBy(had, env.Key) || (ours && had.DeletionTimestamp != nil) {
			continue
		}
		if !a.Replace {
			faults = append(faults, fmt.Sprintf("claim %s exists; set replace: true, or restore to another name or namespace", at))
			continue
		}
		if pods[at.Namespace] == nil {
			if pods[at.Namespace], err = users(ctx, c, env, at.Namespace); err != nil {
				return nil, err
			}
		}
		if err := inUse(at, pods[at.Namespace]); err != nil {
			faults = append(faults, err.Error())
		}
		t.former = had
	}
	return r, whole("nothing was touched", faults)
}

// planRestore says which claims to make of which volumes. Pure.
func planRestore(volumes []Volume, a restoreArgs, classOf func(string) string) (claims []*restored, faults []string) {
	taken := map[types.NamespacedName]string{}
	former := map[string]bool{}
	for _, v := range volumes {
		former[v.PVC] = true
		at := types.NamespacedName{Namespace: v.Namespace, Name: v.PVC}
		if a.Namespace != "" {
			at.Namespace = a.Namespace
		}
		if n := a.Names[v.PVC]; n != "" {
			at.Name = n
		}
		if at.Name == "" || at.Namespace == "" {
			faults = append(faults, fmt.Sprintf("%s: it has no pvc and namespace", v.claim()))
			continue
		}
		if was, twice := taken[at]; twice {
			faults = append(faults, fmt.Sprintf("pvc %s and %s would both become claim %s; set names", was, v.claim(), at))
			continue
		}
		taken[at] = v.claim().String()
		size, err := larger(v.Size, v.RestoreSize)
		if err != nil {
			faults = append(faults, fmt.Sprintf("pvc %s: %v", v.claim(), err))
			continue
		}
		labels := keptLabels(v.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, a.Labels)
		spec := claimSpec{at: at, snapshot: v.Snapshot, storageClass: classOf(v.StorageClass), size: size, accessModes: v.AccessModes, volumeMode: v.VolumeMode, labels: labels}
		if err := spec.check(); err != nil {
			faults = append(faults, fmt.Sprintf("pvc %s: %v", v.claim(), err))
			continue
		}
		claims = append(claims, &restored{volume: v, spec: spec})
	}
	for _, n := range slices.Sorted(maps.Keys(a.Names)) {
		if !former[n] {
			faults = append(faults, fmt.Sprintf("names: there is no pvc %q among the volumes", n))
		}
	}
	return claims, faults
}

// larger is the larger of two sizes, of which one may be unknown.
func larger(a, b string) (resource.Quantity, error) {
	var most resource.Quantity
	for _, s := range []string{a, b} {
		if s == "" {
			continue
		}
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return most, fmt.Errorf("size %q: write it as 10Gi", s)
		}
		if q.Cmp(most) > 0 {
			most = q
		}
	}
	return most, nil
}

// storageClassOf reads the argument of that name: one name, or a map.
func storageClassOf(raw any) (func(former string) string, error) {
	switch t := raw.(type) {
	case nil:
		return func(former string) string { return former }, nil
	case string:
		if t == "" {
			return storageClassOf(nil)
		}
		return func(string) string { return t }, nil
	case map[string]any:
		to := map[string]string{}
		for k, v := range t {
			s, ok := v.(string)
			if !ok || s == "" {
				return nil, fault.New(fault.User, "storageClass: %q: want the name of a class", k)
			}
			to[k] = s
		}
		return func(former string) string {
			if s := to[former]; s != "" {
				return s
			}
			return former
		}, nil
	}
	return nil, fault.New(fault.User, "storageClass: want a name, or a map of former to new names")
}

func (r *restore) run(ctx context.Context) (function.Outputs, error) {
	err := within(ctx, r.args.Timeout, func(ctx context.Context) error {
		for _, step := range []func(context.Context) error{r.sources, r.make, r.bind} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = within(ctx, r.args.FillTimeout, r.fill)
	}
	if err != nil {
		return nil, r.back(ctx, err)
	}
	var temporary []Volume
	err = within(ctx, r.args.Timeout, func(ctx context.Context) (err error) {
		temporary, err = r.tidy(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("all claims are made, but: %w", err)
	}
	return r.outputs(ctx, temporary)
}

// sources waits until there is a snapshot to restore from in each claim's own
// namespace. Where there is none, one is made of what the storage has.
func (r *restore) sources(ctx context.Context) error {
	for _, t := range r.claims {
		if t.imported {
			t.spec.snapshot = ""
			continue
		}
		v := t.volume
		if v.Snapshot != "" || v.Group != "" {
			one := []Volume{v}
			var has *snapshotv1.VolumeSnapshot
			var err error
			if v.Snapshot != "" {
				has, err = getSnapshot(ctx, r.c, r.env, v.Namespace, v.Snapshot)
				if err != nil {
					return err
				}
			}
			if has != nil || v.Snapshot == "" {
				if err := ready(ctx, r.c, r.env, one); err != nil {
					return err
				}
				v = one[0]
				if v.Handle == "" {
					content, err := getContent(ctx, r.c, r.env, v.Content)
					if err != nil {
						return err
					}
					if content != nil && content.Status != nil {
						v.Handle, v.Driver = deref(content.Status.SnapshotHandle), content.Spec.Driver
					}
				}
				t.volume, t.spec.snapshot = v, v.Snapshot
				if v.Namespace == t.spec.at.Namespace {
					if err := t.spec.fits(v.RestoreSize); err != nil {
						return err
					}
					continue
				}
			}
		}
		if v.Handle == "" || v.Driver == "" {
			return fault.New(fault.Permanent, "VolumeSnapshot %s: not found, and the storage's handle of it is not known", v.snapshot())
		}
		name := named(t.spec.at.Name+"-restore", r.env.Key)
		s := Volume{
			PVC: v.PVC, Namespace: t.spec.at.Namespace, Snapshot: name, Content: name, Handle: v.Handle, Driver: v.Driver,
			SnapshotClass: v.SnapshotClass, VolumeMode: v.VolumeMode, Group: v.Group, temporary: true,
		}
		t.static = &s
		if err := s.adopt(ctx, r.c, r.env, snapshotv1.VolumeSnapshotContentRetain); err != nil {
			return err
		}
		s.Group = "" // it is no member: it goes by itself
		t.spec.snapshot = name
		if err := t.spec.fits(s.RestoreSize); err != nil {
			return err
		}
	}
	return nil
}

// imports says which claims are filled from the location: those of whose data
// this cluster has no snapshot any more, and knows of none that the storage has.
func (r *restore) imports(ctx context.Context) (err error) {
	for _, t := range r.claims {
		v := t.volume
		if v.Export == nil {
			if r.args.FromLocation {
				return fault.New(fault.User, "pvc %s was not exported: there is nothing of it in the location", v.claim())
			}
			continue
		}
		if t.imported = r.args.FromLocation; !t.imported {
			has, err := getSnapshot(ctx, r.c, r.env, v.Namespace, v.Snapshot)
			if err != nil {
				return err
			}
			content, err := getContent(ctx, r.c, r.env, v.Content)
			if err != nil {
				return err
			}
			t.imported = has == nil && content == nil
		}
		if t.imported && r.request == nil {
			if r.request, err = r.args.request(r.m, r.env, mover.Restore); err != nil {
				return fmt.Errorf("pvc %s comes from the location: %w", v.claim(), err)
			}
		}
	}
	return nil
}

// fill writes what the location has into the claims that are filled from it.
func (r *restore) fill(ctx context.Context) error {
	var filled []*restored
	for _, t := range r.claims {
		if t.imported {
			filled = append(filled, t)
		}
	}
	pod := movers.Pod{Image: r.args.Image, Args: r.args.Args}
	err := inParallel(r.env, r.args.Parallel, len(filled), func(i int) string { return filled[i].spec.at.String() },
		func(i int, done *types.UID) (*types.UID, error) {
			t := filled[i]
			if done != nil && *done == t.isNew.UID {
				return done, nil // by an attempt before this one
			}
			return &t.isNew.UID, t.volume.Export.restore(ctx, r.m, r.env, i, t.spec.at, *r.request, pod)
		})
	if err != nil {
		return err
	}
	for _, t := range filled { // a class that waits for a pod has seen one
		if err := bound(ctx, r.c, r.env, []types.NamespacedName{t.spec.at}); err != nil {
			return err
		}
		if t.isNew, err = getClaim(ctx, r.c, r.env, t.spec.at); err != nil {
			return err
		}
	}
	return nil
}

// make makes the claims, in the place of those that are to be replaced.
func (r *restore) make(ctx context.Context) error {
	for _, t := range r.claims {
		at := t.spec.at
		if t.former != nil {
			speak(r.env, "replacing claim %s", at)
			by, err := users(ctx, r.c, r.env, at.Namespace)
			if err != nil {
				return err
			}
			if err := inUse(at, by); err != nil {
				return err
			}
			was, err := keep(ctx, r.c, r.env, t.former)
			if was.Volume == "" || was.ReclaimPolicy != "" { // else nothing was changed yet
				r.replaced[at] = was
			}
			if err != nil {
				return err
			}
		} else if was, ok := r.replaced[at]; ok && was.Volume != "" {
			// Another attempt asked for the deletion of the former claim.
			had, err := getClaim(ctx, r.c, r.env, at)
			if err != nil {
				return err
			}
			if had != nil && had.Spec.VolumeName == was.Volume {
				if err := dropClaim(ctx, r.c, r.env, had); err != nil {
					return err
				}
			}
		}
		if was, ok := r.replaced[at]; ok { // it takes over what belongs to its owner
			labels := keptLabels(was.Labels)
			if labels == nil {
				labels = map[string]string{}
			}
			maps.Copy(labels, t.spec.labels)
			t.spec.labels, t.spec.annotations = labels, was.Annotations
		}
		pvc, err := makeClaim(ctx, r.c, r.env, t.spec.claim())
		if err != nil {
			return err
		}
		t.isNew = pvc
	}
	return nil
}

// bind waits until the claims are bound whose class does not wait for a pod.
func (r *restore) bind(ctx context.Context) error {
	for _, t := range r.claims {
		if t.waits {
			continue
		}
		if err := bound(ctx, r.c, r.env, []types.NamespacedName{t.spec.at}); err != nil {
			return err
		}
	}
	for _, t := range r.claims {
		pvc, err := getClaim(ctx, r.c, r.env, t.spec.at)
		if err != nil {
			return err
		}
		if pvc != nil {
			t.isNew = pvc
		}
	}
	return nil
}

func (t *restored) bound() bool { return t.isNew != nil && t.isNew.Status.Phase == corev1.ClaimBound }

// tidy deletes the snapshots that were made for claims in another namespace,
// and returns those that are still needed.
func (r *restore) tidy(ctx context.Context) (temporary []Volume, err error) {
	for _, t := range r.claims {
		switch {
		case t.static == nil:
		case !t.bound():
			temporary = append(temporary, *t.static)
		default:
			if err := t.static.dropStatic(ctx, r.c, r.env); err != nil {
				return nil, fmt.Errorf("delete VolumeSnapshot %s: %w", t.static.snapshot(), err)
			}
		}
	}
	return temporary, nil
}

// back undoes a restore that failed. What could not be undone is named.
func (r *restore) back(ctx context.Context, why error) error {
	if r.env.Stopping != nil && r.env.Stopping() {
		return why // another worker goes on with it
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goBack)
	defer cancel()
	var left []string
	for _, t := range r.claims {
		at := t.spec.at
		if was, ok := r.replaced[at]; ok {
			if err := was.putBack(ctx, r.c, r.env); err != nil {
				left = append(left, fmt.Sprintf("%s is not put back: %v (ReturnVolumes does that)", was, err))
			}
		} else if now, err := getClaim(ctx, r.c, r.env, at); err != nil || (now != nil && cluster.MadeBy(now, r.env.Key)) {
			if err == nil {
				err = dropRestored(ctx, r.c, r.env, now, r.env.Key)
			}
			if err != nil {
				left = append(left, fmt.Sprintf("claim %s is not deleted: %v", at, err))
			}
		}
		if t.static != nil {
			if err := t.static.dropStatic(ctx, r.c, r.env); err != nil {
				left = append(left, fmt.Sprintf("VolumeSnapshot %s and VolumeSnapshotContent %s are not deleted: %v", t.static.snapshot(), t.static.Content, err))
			}
		}
	}
	if len(left) == 0 {
		return why
	}
	return fault.New(fault.Of(why), "%w; left behind: %s", why, strings.Join(left, "; "))
}

// claimOut is one claim in the outputs.
type claimOut struct {
	Namespace    string `json:"namespace"`
	Name         string `json:"name"`
	Snapshot     string `json:"snapshot"`
	StorageClass string `json:"storageClass"`
	Size         string `json:"size"`
	Volume       string `json:"volume,omitempty"`
	Bound        bool   `json:"bound"`
}

func (r *restore) outputs(ctx context.Context, temporary []Volume) (function.Outputs, error) {
	all := true
	claims := []claimOut{}
	in := map[string][]string{}
	for _, t := range r.claims {
		claims = append(claims, claimOut{t.spec.at.Namespace, t.spec.at.Name, t.spec.snapshot, t.spec.storageClass, t.spec.size.String(), t.isNew.Spec.VolumeName, t.bound()})
		all = all && t.bound()
		in[t.spec.at.Namespace] = append(in[t.spec.at.Namespace], t.spec.at.Name)
	}
	replaced := []Replaced{}
	for _, t := range r.claims {
		if was, ok := r.replaced[t.spec.at]; ok {
			replaced = append(replaced, was)
		}
	}
	if temporary == nil {
		temporary = []Volume{}
	}
	warnings := []string{}
	for _, namespace := range slices.Sorted(maps.Keys(in)) {
		more, err := fsGroupWarnings(ctx, r.c, r.env, namespace, in[namespace])
		if err != nil {
			return nil, err
		}
		warnings = append(warnings, more...)
	}
	return function.Outputs{"claims": data(claims), "bound": all, "replaced": data(replaced), "temporary": data(temporary), "warnings": data(warnings)}, nil
}
