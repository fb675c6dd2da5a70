package matrix

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/blueprints/plan"
	"thaw/internal/testcluster"
	"thaw/internal/testdb"
	"thaw/internal/testenv"
)

// kube is a lane's part of a cluster.
type kube struct {
	*cluster.Cluster
	t                      testing.TB
	app, ns, service       string
	pods, container, claim string
	ping                   func(context.Context) error // by a connection of its own
	// broken are the components that a cell killed since the cluster was last
	// seen in order.
	broken []string
}

// inPods puts the lane's database on the cluster.
func (l *lane) inPods(app string) {
	t := l.t
	c := testcluster.Open(t)
	k := &kube{Cluster: c, t: t, app: app, ns: testcluster.Namespace(t, c), service: "mariadb", pods: "app.kubernetes.io/name=mariadb", container: "mariadb"}
	if app == "postgres" {
		k.service, k.pods, k.container = "pg-postgresql", "app.kubernetes.io/name=postgresql", "postgresql"
	}
	k.claim = "data-" + k.service + "-0"
	l.kube, l.cfg.Kubernetes = k, cluster.Config{Kubeconfig: os.Getenv("KUBECONFIG"), Namespace: k.ns}
	testcluster.Apply(t, c, k.ns, testcluster.App(t, app))
	testcluster.Ready(t, c, k.ns, k.pods, 1)
	svc, err := c.Kube.CoreV1().Services(k.ns).Get(t.Context(), k.service, metav1.GetOptions{})
	require.NoError(t, err)
	db := openInPod(t, app, svc.Spec.ClusterIP)
	db.SetMaxIdleConns(3)
	k.ping = openInPod(t, app, svc.Spec.ClusterIP).PingContext
	testenv.Await(t, time.Minute, "the database answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return k.ping(ctx) == nil
	})
	l.db.target = plan.Target{Kind: "StatefulSet", Name: k.service, Namespace: k.ns}
	l.db.load = testdb.StartLoad(t, db, 2)
	if app == "postgres" {
		l.db.held = func(ctx context.Context) (n int, err error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			err = db.QueryRowContext(ctx, "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'thaw:%'").Scan(&n)
			return n, err
		}
	}
	l.reach, l.maxFreeze = 4*time.Second, 12*time.Second
}

// dead is how long a peer may leave what was sent to it unconfirmed. It is the
// kernel that confirms: a server that is locked does, the address of a pod that
// is gone does not, and what waits for it would wait for a quarter of an hour.
const dead = 3 * time.Second

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: int(dead / time.Second)},
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			return errors.Join(raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(dead.Milliseconds()))
			}), err)
		},
	}
	return d.DialContext(ctx, network, address)
}

// soon connects within dead, the handshake included: a server that is locked
// greets, one that is being taken away may accept a connection and never speak.
type soon struct{ driver.Connector }

func (s soon) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dead)
	defer cancel()
	return s.Connector.Connect(ctx)
}

// openInPod opens a database whose server may go away without a word.
func openInPod(t testing.TB, app, host string) *sql.DB {
	var connector driver.Connector
	if app == "postgres" {
		cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=5432 user=postgres password=thaw-postgres dbname=postgres sslmode=disable", host))
		require.NoError(t, err)
		cfg.DialFunc = dial
		connector = stdlib.GetConnector(*cfg)
	} else {
		cfg := mysql.NewConfig()
		cfg.User, cfg.Passwd, cfg.DBName, cfg.Net, cfg.Addr, cfg.DialFunc = "root", "thaw-mariadb", "shop", "tcp", host+":3306", dial
		var err error
		connector, err = mysql.NewConnector(cfg)
		require.NoError(t, err)
	}
	db := sql.OpenDB(soon{connector})
	t.Cleanup(func() { _ = db.Close() })
	db.SetMaxIdleConns(0) // each ping is one of its own
	return db
}

// stored lists the snapshots of the lane's claims that the storage has: one may
// be there that no object of the cluster tells of.
func (k *kube) stored() (left []string) {
	list := json.NewDecoder(strings.NewReader(testcluster.Drive(k.t, "snapshots")))
	for {
		var s struct{ ID, Namespace, Claim string }
		err := list.Decode(&s)
		if errors.Is(err, io.EOF) {
			return left
		}
		require.NoError(k.t, err)
		if s.Namespace == k.ns {
			left = append(left, fmt.Sprintf("stored snapshot %s of claim %s", s.ID, s.Claim))
		}
	}
}

// pod is that of the database; it may not be there.
func (k *kube) pod(ctx context.Context) (*corev1.Pod, error) {
	return k.Kube.CoreV1().Pods(k.ns).Get(ctx, k.service+"-0", metav1.GetOptions{})
}

func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

const (
	// settleLimit is how long a cluster may take to be in order after a cell.
	settleLimit = 3 * time.Minute
	// quick is how long a step may take on a cluster that is in order: far less
	// than maxFreeze.
	quick = 2 * time.Second
)

// clients of the API server. Those that lost it look again only after a while,
// up to a minute, which is longer than a freeze.
var clients = []string{"kube-controller-manager", "kube-scheduler", "kubelet", "snapshot-controller", "csi-provisioner", "csi-snapshotter", "kube-proxy", "dns"}

// settle waits until the cluster is as a cell should find it, or it would not
// test what it says: the database answers, a snapshot is cut and deleted soon,
// and, after a cell that broke the cluster, a pod runs soon too.
func (k *kube) settle() {
	if slices.Contains(k.broken, "kube-apiserver") {
		for _, name := range clients {
			testcluster.Drive(k.t, "restart", name)
		}
	}
	start := time.Now()
	for {
		err := k.inOrder()
		if err == nil {
			break
		}
		if time.Since(start) > settleLimit {
			k.t.Fatalf("the cluster is not in order %s after the last cell: %v", settleLimit, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
	if took := time.Since(start); len(k.broken) > 0 || took > 5*time.Second {
		k.t.Logf("the cluster was in order after %.1fs (broken: %v)", took.Seconds(), k.broken)
	}
	k.broken = nil
}

func (k *kube) inOrder() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	nodes, err := k.Kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, n := range nodes.Items {
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("node %s is not ready", n.Name)
		}
	}
	p, err := k.pod(ctx)
	if err != nil {
		return err
	}
	if !ready(p) {
		return fmt.Errorf("pod %s is not ready", p.Name)
	}
	try, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	if err := k.ping(try); err != nil {
		return fmt.Errorf("the database does not answer: %w", err)
	}
	if len(k.broken) > 0 {
		if err := k.runsPods(ctx); err != nil {
			return err
		}
	}
	return k.cuts(ctx)
}

// cuts makes a snapshot of the database's claim, and deletes it.
func (k *kube) cuts(ctx context.Context) error {
	api, class := k.Snapshots.SnapshotV1().VolumeSnapshots(k.ns), testcluster.SnapshotClass
	s, err := api.Create(ctx, &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"},
		Spec:       snapshotv1.VolumeSnapshotSpec{VolumeSnapshotClassName: &class, Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &k.claim}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	cut := within(ctx, quick, func() bool {
		now, err := api.Get(ctx, s.Name, metav1.GetOptions{})
		return err == nil && now.Status != nil && now.Status.ReadyToUse != nil && *now.Status.ReadyToUse
	})
	if err := api.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	gone := func() bool {
		_, err := k.Snapshots.SnapshotV1().VolumeSnapshotContents().Get(ctx, "snapcontent-"+string(s.UID), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = api.Get(ctx, s.Name, metav1.GetOptions{})
		}
		return apierrors.IsNotFound(err)
	}
	switch {
	case !cut:
		within(ctx, 10*time.Second, gone)
		k.wake(ctx, s.UID)
		return fmt.Errorf("snapshot %s was not ready within %s", s.Name, quick)
	case !within(ctx, quick, gone):
		return fmt.Errorf("snapshot %s was not deleted within %s", s.Name, quick)
	}
	return nil
}

// wake has the driver's sidecar look at a content that it forgot: one that was
// deleted while it was being cut. Thaw does so itself with its own.
func (k *kube) wake(ctx context.Context, uid types.UID) {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"probe":%q}}}`, time.Now())
	_, _ = k.Snapshots.SnapshotV1().VolumeSnapshotContents().Patch(ctx, "snapcontent-"+string(uid), types.MergePatchType, patch, metav1.PatchOptions{})
}

// runsPods runs a pod, and deletes it.
func (k *kube) runsPods(ctx context.Context) error {
	api := k.Kube.CoreV1().Pods(k.ns)
	p, err := api.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "probe-"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{Name: "main", Image: testcluster.Tools, Command: []string{"true"}}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ran := within(ctx, 3*quick, func() bool {
		now, err := api.Get(ctx, p.Name, metav1.GetOptions{})
		return err == nil && now.Status.Phase == corev1.PodSucceeded
	})
	if err := api.Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if !ran {
		return fmt.Errorf("pod %s did not run within %s", p.Name, 3*quick)
	}
	return nil
}

// within waits for a condition, and reports whether it came.
func within(ctx context.Context, limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return ok()
}
