package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
)

const (
	// repositories is where the location keeps the data of volumes: a
	// repository for each namespace, whose volumes share blocks.
	repositories = "volumes"
	// mounted is where a mover has the volume.
	mounted = "/volume"
	// exportCall is how long an export or an import may take.
	exportCall = 7 * 24 * time.Hour
)

// Export is where the location of the run's profile has a volume's data.
type Export struct {
	// Repository is its path in the location, and Snapshot its id there.
	Repository string `json:"repository"`
	Snapshot   string `json:"snapshot"`
	Files      string `json:"files,omitempty"`
	Size       string `json:"size,omitempty"`
	// Moved is what the location got for it: what it had not already.
	Moved string `json:"moved,omitempty"`
}

func repositoryOf(v *Volume) string { return path.Join(repositories, v.Namespace) }

// tagOf names the data of a volume in its repository by the restore point that
// it is for, so that it is found without what the export put out.
func tagOf(env *function.Env, v *Volume) string {
	return path.Join(env.RestorePoint.ID, v.PVC)
}

// movingArgs are those of every function that moves data in pods of its own.
type movingArgs struct {
	Parallel      int    `arg:"parallel" default:"2" doc:"how many volumes are copied at once"`
	EncryptionKey string `arg:"encryptionKey" doc:"passphrase of the repository in the location; the worker's secretsKey where there is none"`
	Image         string `arg:"image" doc:"image with Thaw's kando; the worker's data.image wins"`
	podrun.Args   `arg:",squash"`
}

// check says what is wrong with them: "" where nothing is.
func (a movingArgs) check() string {
	if a.Parallel < 1 {
		return fmt.Sprintf("parallel %d: it must be more than nothing", a.Parallel)
	}
	return ""
}

// request begins the requests of a call, whose pods can be made.
func (a movingArgs) request(m *movers.Movers, env *function.Env, do string) (*mover.Request, error) {
	q, err := m.Request(env, do, a.EncryptionKey)
	if err != nil {
		return nil, err
	}
	_, err = m.NeedImage(a.Image)
	return q, err
}

type exportArgs struct {
	Volumes    any           `arg:"volumes,required" type:"object" doc:"what WaitSnapshotsReady put out"`
	Timeout    time.Duration `arg:"timeout" default:"24h" doc:"how long all of it may take"`
	movingArgs `arg:",squash"`
}

// exportVolumes belongs after the thaw, as all that moves data does. The data
// is read from a claim that is made of each snapshot, so that no load falls on
// the database's own volume, and nothing changes while it is read.
//
// Idempotent: claim and pod of a volume have names of their own, and its data
// a tag, so that another attempt goes on with what is there; a mover that is
// killed is followed by another, which moves only what is not in the location
// yet.
func exportVolumes(c *cluster.Cluster, m *movers.Movers) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "ExportVolumes", Family: family,
		Summary: "Copy the data of snapshots into the location profile, encrypted, and only what is not there yet. Run it after the thaw, when the snapshots are ready.",
		Outputs: []catalogue.Output{
			{Name: "volumes", Description: "the volumes given, each with what it takes to restore it from the location; for RestoreVolumes and DeleteExports"},
		},
		Profile: true, Idempotent: true, Reattach: true, Timeout: exportCall,
		Rules: append([]catalogue.Rule{
			claimRule("get", "list", "watch", "create", "delete"), podRule("list"), volumeRule("get", "list", "watch"),
		}, movers.Rules...),
	}, func(_ context.Context, env *function.Env, a exportArgs) (function.Act, func(), error) {
		doing := "export volumes"
		x, err := prepareExport(c, m, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", doing, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			if err := within(ctx, a.Timeout, x.run); err != nil {
				return nil, fmt.Errorf("%s: %w", doing, err)
			}
			return function.Outputs{"volumes": data(x.volumes)}, nil
		}, nil, nil
	})
}

type export struct {
	c       *cluster.Cluster
	m       *movers.Movers
	env     *function.Env
	args    exportArgs
	volumes []Volume
	request mover.Request // of all; see save
}

func prepareExport(c *cluster.Cluster, m *movers.Movers, env *function.Env, a exportArgs) (*export, error) {
	if err := c.Need(); err != nil {
		return nil, err
	}
	volumes, err := decode[Volume]("volumes", a.Volumes)
	if err != nil {
		return nil, err
	}
	q, err := a.request(m, env, mover.Save)
	if err != nil {
		return nil, err
	}
	if env.RestorePoint.ID == "" {
		return nil, fault.New(fault.User, "this run makes no restore point that the data would belong to")
	}
	var faults []string
	for i := range volumes {
		v := &volumes[i]
		switch {
		case v.Namespace == "" || v.PVC == "" || v.Snapshot == "":
			faults = append(faults, fmt.Sprintf("pvc %s has no snapshot; wait for it with WaitSnapshotsReady", v.claim()))
		case v.VolumeMode == string(corev1.PersistentVolumeBlock):
			faults = append(faults, fmt.Sprintf("pvc %s is a raw block device: only volumes with a file system are exported; leave it out", v.claim()))
		}
	}
	if why := a.check(); why != "" {
		faults = append(faults, why)
	}
	return &export{c: c, m: m, env: env, args: a, volumes: volumes, request: *q}, whole("volumes", faults)
}

func (x *export) run(ctx context.Context) error {
	err := inParallel(x.env, x.args.Parallel, len(x.volumes), func(i int) string { return x.volumes[i].claim().String() },
		func(i int, done *Export) (_ *Export, err error) {
			if done == nil {
				done, err = x.save(ctx, i)
			}
			x.volumes[i].Export = done
			return done, err
		})
	some := slices.ContainsFunc(x.volumes, func(v Volume) bool { return v.Export != nil })
	if err != nil && some && fault.Of(err) == fault.User {
		// A person's mistake has no effect, and is owed no compensation; this had.
		return fault.New(fault.Permanent, "%s", err.Error())
	}
	return err
}

// within bounds a step of a call.
func within(ctx context.Context, limit time.Duration, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done after %s", limit))
	defer cancel()
	return step(ctx)
}

// inParallel makes some calls of one, a few at a time. What each came to is
// remembered, by name, for an attempt after this one, which is given it. The
// error has that of each.
func inParallel[T any](env *function.Env, atOnce, n int, name func(i int) string, one func(i int, done *T) (*T, error)) error {
	done := map[string]*T{}
	if env.Recalled != "" {
		_ = json.Unmarshal([]byte(env.Recalled), &done) // of another release: nothing is done yet
	}
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i := range n {
		free <- struct{}{}
		all.Go(func() {
			defer func() { <-free }()
			mu.Lock()
			had := done[name(i)]
			mu.Unlock()
			came, err := one(i, had)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("pvc %s: %w", name(i), err))
				return
			}
			done[name(i)] = came
			if b, err := json.Marshal(done); err == nil && env.Remember != nil {
				env.Remember(string(b))
			}
			speak(env, "%d of %d volumes done", len(done), n)
		})
	}
	all.Wait()
	return together(errs)
}

// save makes a claim of a volume's snapshot, copies what is in it, and takes
// the claim away again.
func (x *export) save(ctx context.Context, i int) (*Export, error) {
	v := &x.volumes[i]
	size, err := larger(v.Size, v.RestoreSize)
	if err != nil {
		return nil, err
	}
	spec := x.clone(v, size)
	if err := spec.check(); err != nil {
		return nil, err
	}
	pvc, err := makeClaim(ctx, x.c, x.env, spec.claim())
	if err != nil {
		return nil, err
	}
	q := x.request
	q.Repository, q.Path, q.Tag = repositoryOf(v), mounted, tagOf(x.env, v)
	q.Source = path.Join("/", v.Namespace, v.PVC)
	out, err := inPod(ctx, x.m, x.env, i, movers.Pod{
		Namespace: v.Namespace, Image: x.args.Image, Args: x.args.Args, Mounts: map[string]string{pvc.Name: mounted}, ReadOnly: true,
	}, &q)
	if err != nil && x.env.Stopping() {
		return nil, err // another worker goes on with it
	}
	// Also of one that failed: claims are quickly made again.
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), goBack)
	defer cancel()
	if derr := x.drop(own, spec.at); derr != nil {
		err = errors.Join(err, fmt.Errorf("left behind: %w", derr))
	}
	if err != nil {
		return nil, err
	}
	text := func(key string) string { s, _ := out[key].(string); return s }
	return &Export{Repository: q.Repository, Snapshot: text("backupID"), Files: text("fileCount"), Size: text("size"), Moved: text("phySize")}, nil
}

// drop takes a clone away with its volume, which it has by now.
func (x *export) drop(ctx context.Context, at types.NamespacedName) error {
	pvc, err := getClaim(ctx, x.c, x.env, at)
	if err != nil || pvc == nil {
		return err
	}
	return dropRestored(ctx, x.c, x.env, pvc, x.env.Key)
}

func (x *export) clone(v *Volume, size resource.Quantity) claimSpec {
	at := types.NamespacedName{Namespace: v.Namespace, Name: named(v.PVC+"-export", x.env.Key)}
	return claimSpec{
		at: at, snapshot: v.Snapshot, storageClass: v.StorageClass, size: size, accessModes: v.AccessModes, volumeMode: v.VolumeMode,
		labels: map[string]string{labelTemporary: "true"},
	}
}

// inPod runs a mover in the i-th pod of a call, and takes the pod away before
// it returns: as long as it is there its claims cannot go. Another attempt
// loses nothing by that: the mover finds what this one did.
func inPod(ctx context.Context, m *movers.Movers, env *function.Env, i int, pod movers.Pod, q *mover.Request) (function.Outputs, error) {
	var after []func(context.Context)
	one := movers.One(env, i)
	one.After = func(f func(context.Context)) { after = append(after, f) }
	act, err := m.InPod(ctx, one, pod, q)
	if err != nil {
		return nil, err
	}
	out, err := act(ctx)
	if err != nil && env.Stopping() {
		return nil, err
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), goBack)
	defer cancel()
	for _, f := range after {
		f(own)
	}
	return out, err
}

// restore fills a claim with what the location has of a volume.
func (e *Export) restore(ctx context.Context, m *movers.Movers, env *function.Env, i int, at types.NamespacedName, request mover.Request, pod movers.Pod) error {
	request.Repository, request.ID, request.Target = e.Repository, e.Snapshot, "/"
	pod.Namespace, pod.Mounts = at.Namespace, map[string]string{at.Name: mounted}
	_, err := inPod(ctx, m, env, i, pod, &request)
	return err
}

type deleteExportsArgs struct {
	Volumes       any    `arg:"volumes,required" type:"object" doc:"what ExportVolumes was given, or put out"`
	EncryptionKey string `arg:"encryptionKey" doc:"passphrase of the repository; the worker's secretsKey where there is none"`
	Leave         bool   `arg:"leave" default:"false" doc:"where the location cannot be used any more (its credential, its bucket), leave what it may have, and say so in left; for compensations"`
	ReclaimSpace  bool   `arg:"reclaimSpace" default:"false" doc:"free what nothing needs any more; what became useless within a day is kept till a later time"`
}

// deleteExports touches the location alone: the namespace of the volumes, and
// the cluster, may be gone.
func deleteExports(m *movers.Movers) function.Function {
	return function.New(catalogue.Function{
		Name: "DeleteExports", Family: family,
		Summary: "Delete what ExportVolumes copied for this restore point. Content where there is nothing, and where the run has no location profile and nothing was exported.",
		Outputs: []catalogue.Output{
			{Name: "spaceFreed", Description: "bytes that the location holds less"},
			{Name: plan.OutputLeft, Description: "list of what may be left, with leave"},
		},
		MayUseProfile: true, Idempotent: true, Timeout: 24 * time.Hour,
	}, func(ctx context.Context, env *function.Env, a deleteExportsArgs) (function.Outputs, error) {
		volumes, err := decode[Volume]("volumes", a.Volumes)
		if err != nil {
			return nil, wrap("delete exports", err)
		}
		out, err := dropExports(ctx, m, env, a, volumes)
		if err != nil && a.Leave && fault.Of(err) == fault.User {
			left := []any{}
			for i := range volumes {
				left = append(left, fmt.Sprintf("what the location may have of pvc %s, at %s (%s); thaw gc finds it", volumes[i].claim(), repositoryOf(&volumes[i]), err))
			}
			return function.Outputs{"spaceFreed": "0 B", plan.OutputLeft: left}, nil
		}
		return out, wrap("delete exports", err)
	})
}

func dropExports(ctx context.Context, m *movers.Movers, env *function.Env, a deleteExportsArgs, volumes []Volume) (function.Outputs, error) {
	exported := func(v Volume) bool { return v.Export != nil }
	if env.Profile == nil && env.NoProfile == nil && !slices.ContainsFunc(volumes, exported) {
		return function.Outputs{"spaceFreed": "0 B"}, nil // there was no location
	}
	q, err := m.Request(env, mover.Delete, a.EncryptionKey)
	if err != nil {
		return nil, err
	}
	for i := range volumes {
		s := mover.Snapshot{Repository: repositoryOf(&volumes[i]), Tag: tagOf(env, &volumes[i])}
		if e := volumes[i].Export; e != nil {
			s.Repository, s.ID = e.Repository, e.Snapshot
		} else if env.RestorePoint.ID == "" {
			return nil, fault.New(fault.User, "pvc %s was not exported, and this run works on no restore point", volumes[i].claim())
		}
		q.Delete = append(q.Delete, s)
	}
	q.Reclaim = a.ReclaimSpace
	if len(q.Delete) == 0 {
		return function.Outputs{"spaceFreed": "0 B"}, nil
	}
	return m.Here(ctx, env, q)
}
