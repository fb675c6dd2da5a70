package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"thaw/activities/cluster"
	"thaw/activities/cluster/movers"
	"thaw/activities/function"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
)

// key is what the engine gives a call: the same in all its attempts.
func key() string {
	b := make([]byte, 10)
	_, _ = rand.Read(b)
	return "thaw-" + hex.EncodeToString(b)
}

func newEnv(namespace string) *function.Env {
	return &function.Env{
		Key: key(), Phase: "cut", Run: plan.Run{ID: "run-" + namespace, Original: "r-" + namespace}, Log: slog.New(slog.DiscardHandler),
		Target: plan.Target{Kind: "Namespace", Name: namespace, Namespace: namespace}, Stopping: func() bool { return false },
	}
}

// frozen is an env inside a freeze.
func frozen(namespace string) *function.Env {
	env := newEnv(namespace)
	env.Token = key()
	return env
}

// offline is a cluster that is asked nothing.
var offline = &cluster.Cluster{}

func call(ctx context.Context, c *cluster.Cluster, env *function.Env, name string, args map[string]any) (function.Outputs, error) {
	for _, f := range Functions(c, &movers.Movers{Cluster: c, Config: movers.Config{Image: testcluster.Tools}, Key: func() (string, error) { return "of the worker", nil }}) {
		if f.Name != name {
			continue
		}
		act, release, err := f.Bind(ctx, env, args)
		if err != nil {
			return nil, err
		}
		if release != nil {
			defer release()
		}
		return act(ctx)
	}
	panic(name)
}

func mustCall(t *testing.T, c *cluster.Cluster, env *function.Env, name string, args map[string]any) function.Outputs {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testcluster.Wait)
	defer cancel()
	out, err := call(ctx, c, env, name, args)
	require.NoError(t, err)
	_, err = json.Marshal(out)
	require.NoError(t, err)
	return out
}

func volumesOf(t *testing.T, out function.Outputs) []Volume {
	t.Helper()
	v, err := decode[Volume]("volumes", out["volumes"])
	require.NoError(t, err)
	return v
}

// claim makes a claim, and waits until it is bound.
func claim(t testing.TB, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	class := testcluster.StorageClass
	_, err := c.Kube.CoreV1().PersistentVolumeClaims(namespace).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "shop", "app.kubernetes.io/managed-by": "Helm"}, Annotations: map[string]string{"team": "shop"}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("64Mi")}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		pvc, err := c.Kube.CoreV1().PersistentVolumeClaims(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && pvc.Status.Phase == corev1.ClaimBound
	}, testcluster.Wait, testcluster.Tick)
}

// pod runs a script on a claim, and returns what it wrote.
func pod(t *testing.T, c *cluster.Cluster, namespace, name, script string, claims ...string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{{
			Name: "c", Image: testcluster.Tools, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script},
		}}},
	}
	for _, n := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: n, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: n}}})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: n, MountPath: "/" + n})
	}
	p, err := c.Kube.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
	require.NoError(t, err)
	return p
}

func unpod(t *testing.T, c *cluster.Cluster, namespace, name string) {
	t.Helper()
	require.NoError(t, c.Kube.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
	require.Eventually(t, func() bool {
		_, err := c.Kube.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, testcluster.Wait, testcluster.Tick)
}

func run(t *testing.T, c *cluster.Cluster, namespace, claim, script string) string {
	t.Helper()
	pod(t, c, namespace, "run", script, claim)
	phase := corev1.PodPending
	require.Eventually(t, func() bool {
		p, err := c.Kube.CoreV1().Pods(namespace).Get(t.Context(), "run", metav1.GetOptions{})
		if err == nil {
			phase = p.Status.Phase
		}
		return phase == corev1.PodSucceeded || phase == corev1.PodFailed
	}, testcluster.Wait, testcluster.Tick)
	out, err := c.Kube.CoreV1().Pods(namespace).GetLogs("run", &corev1.PodLogOptions{}).DoRaw(t.Context())
	require.NoError(t, err)
	require.Equal(t, corev1.PodSucceeded, phase, string(out))
	unpod(t, c, namespace, "run")
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, c *cluster.Cluster, namespace, claim, text string) {
	t.Helper()
	run(t, c, namespace, claim, fmt.Sprintf("echo %s > /%s/file && sync", text, claim))
}

func read(t *testing.T, c *cluster.Cluster, namespace, claim string) string {
	t.Helper()
	return run(t, c, namespace, claim, fmt.Sprintf("cat /%s/file", claim))
}

// faulty tells the driver to do something wrong in a namespace, until the test
// ends or what it returns is called.
func faulty(t *testing.T, namespace string, flags ...string) (clear func()) {
	t.Helper()
	bin := os.Getenv("THAW_CLUSTER")
	if bin == "" {
		bin = filepath.Join("..", "..", "bin", "thaw-cluster")
	}
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("the driver cannot be told to fail: %v; run: make cluster", err)
	}
	out, err := exec.Command(bin, append([]string{"fault", "-namespace", namespace}, flags...)...).CombinedOutput()
	require.NoError(t, err, string(out))
	id := strings.TrimSpace(string(out))
	clear = sync.OnceFunc(func() {
		out, err := exec.Command(bin, "fault", "clear", id).CombinedOutput()
		if err != nil {
			t.Errorf("fault clear %s: %v: %s", id, err, out)
		}
	})
	t.Cleanup(clear)
	return clear
}

// litter lists what there is of snapshots of a namespace, and of volumes that
// were a claim's of it and are not any more.
func litter(ctx context.Context, c *cluster.Cluster, namespace string) (all []string, err error) {
	snapshots, err := c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, s := range snapshots.Items {
		all = append(all, "VolumeSnapshot "+s.Name)
	}
	contents, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, s := range contents.Items {
		if s.Spec.VolumeSnapshotRef.Namespace == namespace {
			all = append(all, "VolumeSnapshotContent "+s.Name)
		}
	}
	volumes, err := c.Kube.CoreV1().PersistentVolumes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, pv := range volumes.Items {
		if r := pv.Spec.ClaimRef; r != nil && r.Namespace == namespace && (pv.Status.Phase != corev1.VolumeBound || pv.Labels[labelKept] != "" || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete) {
			all = append(all, fmt.Sprintf("PersistentVolume %s (%s, %s)", pv.Name, pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy))
		}
	}
	groups, err := c.Dynamic.Resource(groupv1.SchemeGroupVersion.WithResource("volumegroupsnapshotcontents")).List(ctx, metav1.ListOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	if err == nil {
		for i := range groups.Items {
			g, err := as[groupv1.VolumeGroupSnapshotContent](&groups.Items[i])
			if err != nil {
				return nil, err
			}
			if g.Spec.VolumeGroupSnapshotRef.Namespace == namespace {
				all = append(all, "VolumeGroupSnapshotContent "+g.Name)
			}
		}
	}
	return all, nil
}

// nothingLeft waits until there is no litter. A content whose deletion the
// driver's sidecar has forgotten goes with its next resync, in 15 minutes: what
// that does is done here.
func nothingLeft(t *testing.T, c *cluster.Cluster, namespace string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reminded := map[string]bool{}
	var left []string
	deadline := time.Now().Add(testcluster.Wait)
	for {
		var err error
		left, err = litter(t.Context(), c, namespace)
		require.NoError(t, err)
		if len(left) == 0 {
			return
		}
		for _, l := range left {
			kind, name, _ := strings.Cut(l, " ")
			for of, resource := range map[string]schema.GroupVersionResource{
				"VolumeSnapshotContent": contentResource, "VolumeGroupSnapshotContent": groupv1.SchemeGroupVersion.WithResource("volumegroupsnapshotcontents"),
			} {
				if kind == of && !reminded[l] {
					reminded[l] = true
					go remind(ctx, c, resource, name)
				}
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v", left)
		}
		time.Sleep(testcluster.Tick)
	}
}

func bind(ctx context.Context, t testing.TB, c *cluster.Cluster, env *function.Env, name string, args map[string]any) (function.Act, func()) {
	t.Helper()
	for _, f := range Functions(c, &movers.Movers{Cluster: c, Config: movers.Config{Image: testcluster.Tools}, Key: func() (string, error) { return "of the worker", nil }}) {
		if f.Name == name {
			act, release, err := f.Bind(ctx, env, args)
			require.NoError(t, err)
			return act, release
		}
	}
	panic(name)
}
