// Package testcluster gives tests a real Kubernetes cluster: the one that
// KUBECONFIG names. `make e2e` brings one up.
package testcluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"thaw/activities/cluster"
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
