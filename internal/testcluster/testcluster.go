// Package testcluster gives tests a real Kubernetes cluster: the one that
// KUBECONFIG names. `make e2e` brings one up.
package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"thaw/activities/cluster"
	"thaw/blueprints/plan"
)

// Wait is how long a test waits for what should come soon.
const Wait = 90 * time.Second

// Tick is how often it looks.
const Tick = 50 * time.Millisecond

// Images that the local cluster has; another cluster must have them too.
const (
	Tools    = "thaw.dev/test/tools:1"
	Postgres = "thaw.dev/test/postgres:15"
	MariaDB  = "thaw.dev/test/mariadb:10.11"
	Redis    = "thaw.dev/test/redis:7"
)

// StorageClass and SnapshotClass of the local cluster's own driver.
const (
	StorageClass  = "thaw-btrfs"
	SnapshotClass = "thaw-btrfs"
)

// Open returns the cluster. Without one the test is skipped, or fails where
// THAW_REQUIRE_CLUSTER is set, as it is in `make e2e`.
func Open(t testing.TB) *cluster.Cluster {
	t.Helper()
	file := os.Getenv("KUBECONFIG")
	if file == "" {
		if os.Getenv("THAW_REQUIRE_CLUSTER") != "" {
			t.Fatal("THAW_REQUIRE_CLUSTER is set, and KUBECONFIG is not")
		}
		t.Skip("no cluster: KUBECONFIG is not set; run: make e2e")
	}
	c, err := cluster.Open(cluster.Config{Kubeconfig: file})
	require.NoError(t, err)
	return c
}

// Here is this machine's address on the way to the cluster, where pods reach it.
func Here(t testing.TB, c *cluster.Cluster) string {
	t.Helper()
	u, err := url.Parse(c.Rest.Host)
	require.NoError(t, err)
	conn, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), "1")) // sends nothing
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// Namespace makes a namespace for the test, and takes it away with all that
// is in it.
func Namespace(t testing.TB, c *cluster.Cluster) string {
	t.Helper()
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r + ('a' - 'A')
		}
		return '-'
	}, strings.TrimPrefix(t.Name(), "Test"))
	if len(name) > 40 {
		name = name[:40]
	}
	ns, err := c.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "t-" + strings.Trim(name, "-") + "-"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		err := c.Kube.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("namespace %s not deleted: %v", ns.Name, err)
			return
		}
		for {
			_, err := c.Kube.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return
			}
			if ctx.Err() != nil {
				t.Errorf("namespace %s is still there: %v", ns.Name, describe(ctx, c, ns.Name, err))
				return
			}
			time.Sleep(Tick)
		}
	})
	return ns.Name
}

func describe(ctx context.Context, c *cluster.Cluster, name string, err error) string {
	ns, getErr := c.Kube.CoreV1().Namespaces().Get(context.WithoutCancel(ctx), name, metav1.GetOptions{})
	if getErr != nil {
		return fmt.Sprint(err)
	}
	return fmt.Sprintf("%v", ns.Status.Conditions)
}

// Exec runs a script in a container, by kubectl's library.
func Exec(t testing.TB, c *cluster.Cluster, namespace, pod, container, script string) string {
	t.Helper()
	req := c.Kube.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: []string{"sh", "-c", script}, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	ex, err := remotecommand.NewSPDYExecutor(c.Rest, "POST", req.URL())
	require.NoError(t, err)
	var out, errs strings.Builder
	err = ex.StreamWithContext(context.WithoutCancel(t.Context()), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	require.NoError(t, err, "%s%s", out.String(), errs.String())
	return out.String()
}

// Apply makes the objects of a manifest in a namespace.
func Apply(t testing.TB, c *cluster.Cluster, namespace, manifest string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifest), 4096)
	for {
		o := &unstructured.Unstructured{}
		err := dec.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		if len(o.Object) == 0 {
			continue
		}
		gvk := o.GroupVersionKind()
		gvr, err := c.Resource(plan.Reference{Kind: gvk.Kind, Group: gvk.Group, APIVersion: gvk.Version, Name: o.GetName()})
		require.NoError(t, err)
		in, err := c.Namespaced(gvr)
		require.NoError(t, err)
		if in {
			o.SetNamespace(namespace)
		}
		_, err = c.Dynamic.Resource(gvr).Namespace(o.GetNamespace()).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true})
		require.NoError(t, err, "%s %s", o.GetKind(), o.GetName())
	}
}

// Ready waits until so many pods of these labels are ready, and returns one.
func Ready(t testing.TB, c *cluster.Cluster, namespace, labels string, count int) string {
	t.Helper()
	name := ""
	require.Eventually(t, func() bool {
		pods, err := c.Kube.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: labels})
		if err != nil {
			return false
		}
		n := 0
		for i := range pods.Items {
			for _, cond := range pods.Items[i].Status.Conditions {
				if cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue && pods.Items[i].DeletionTimestamp == nil {
					n, name = n+1, pods.Items[i].Name
				}
			}
		}
		return n == count
	}, Wait, Tick)
	return name
}

// App is the manifest of a database of deploy/cluster/apps.
func App(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(), "deploy", "cluster", "apps", name+".yaml"))
	require.NoError(t, err)
	return string(text)
}

func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Orphans lists what runs may have left in a namespace: pods that Thaw made,
// and their secrets, snapshots and their contents.
func Orphans(t testing.TB, c *cluster.Cluster, namespace string) (left []string) {
	t.Helper()
	ctx := context.Background()
	marked := metav1.ListOptions{LabelSelector: cluster.LabelManaged + "=" + cluster.Managed}
	pods, err := c.Kube.CoreV1().Pods(namespace).List(ctx, marked)
	require.NoError(t, err)
	for _, o := range pods.Items {
		left = append(left, "pod "+o.Name)
	}
	secrets, err := c.Kube.CoreV1().Secrets(namespace).List(ctx, marked)
	require.NoError(t, err)
	for _, o := range secrets.Items {
		left = append(left, "secret "+o.Name)
	}
	snaps, err := c.Snapshots.SnapshotV1().VolumeSnapshots(namespace).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, o := range snaps.Items {
		left = append(left, "snapshot "+o.Name)
	}
	contents, err := c.Snapshots.SnapshotV1().VolumeSnapshotContents().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, o := range contents.Items {
		if o.Spec.VolumeSnapshotRef.Namespace == namespace {
			left = append(left, "snapshot content "+o.Name)
		}
	}
	claims, err := c.Kube.CoreV1().PersistentVolumeClaims(namespace).List(ctx, marked)
	require.NoError(t, err)
	for _, o := range claims.Items {
		left = append(left, "claim "+o.Name)
	}
	return left
}

// Drive tells the local cluster's own driver, or one of its components, what to
// do: thaw-cluster with these arguments.
func Drive(t testing.TB, args ...string) string {
	t.Helper()
	bin := filepath.Join(root(), "bin", "thaw-cluster")
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("no local cluster: %s is not built; run: make e2e", bin)
	}
	out, err := exec.CommandContext(context.Background(), bin, args...).CombinedOutput()
	require.NoError(t, err, "thaw-cluster %s: %s", strings.Join(args, " "), out)
	return string(out)
}
