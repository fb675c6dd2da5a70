package matrix

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/internal/testcluster"
	"thaw/internal/testenv"
)

// away is how long an API server is gone.
const away = 60 * time.Second

// clusterCells are what may go wrong on a cluster besides.
func clusterCells() []cell {
	points := []struct {
		name  string
		point testenv.Point
		mode  testenv.Mode
	}{
		{"before do", testenv.Do, testenv.Before}, {"in the cut", testenv.Cut, testenv.Before}, {"before undo", testenv.Undo, testenv.Before},
	}
	var list []cell
	for _, p := range points {
		list = append(list, cell{name: "API server gone for 60 s " + p.name, point: p.point, mode: p.mode, act: (*trial).loseAPI})
	}
	return append(list,
		cell{name: "API server gone for 60 s while snapshots become ready", before: fault("--snapshot-ready-after", "20s"), after: clear, act: (*trial).loseAPILater},
		cell{name: "kubelet killed in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.drive("kill", "kubelet")
			x.fault.Go()
		}, after: func(x *trial) { x.drive("start", "kubelet") }},
		cell{name: "target pod deleted in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			before, _ := x.lane.db.load.Failed()
			x.deletePod()
			x.await("the database is gone", func() bool { n, _ := x.lane.db.load.Failed(); return n > before })
			x.fault.Go()
		}},
		cell{name: "snapshot never ready", before: fault("--never-ready"), after: clear, edit: func(b *blueprint) { b.setPhase("ready", "timeout", "5s") }},
		cell{name: "CSI driver fails", before: fault("--fail-snapshots"), after: clear},
		cell{name: "CSI driver cuts, and its answer is lost", before: fault("--lose-snapshots", "--times", "1"), after: clear},
		// The run goes on until the driver answers: it deletes what it may have cut.
		cell{name: "CSI driver hangs", before: fault("--hang-snapshots"), act: func(x *trial) {
			x.later(x.lane.maxFreeze+slack+time.Second, func() {
				clear(x)
				x.drive("restart", "csi-snapshotter") // else it looks again in 15 minutes
			})
		}},
		cell{name: "CSI driver killed in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.drive("kill", "csi-driver")
			x.fault.Go()
		}, after: func(x *trial) { x.drive("start", "csi-driver") }},
		cell{name: "disk full", act: func(x *trial) {
			x.fillDisk()
			x.later(10*time.Second, x.emptyDisk)
		}},
	)
}

func (x *trial) drive(args ...string) string { return testcluster.Drive(x.lane.t, args...) }

func (x *trial) loseAPI() {
	x.drive("kill", "kube-apiserver")
	x.fault.Go()
	time.Sleep(away)
	x.drive("start", "kube-apiserver")
}

// loseAPILater waits until the freeze is over: nobody needs to be frozen for
// what comes then.
func (x *trial) loseAPILater() {
	x.await("the freeze is over", func() bool { return !x.running(x.session) && x.running(x.id) && x.phase() == "ready" })
	x.loseAPI()
}

func (x *trial) phase() string {
	p, err := x.progress()
	if err != nil {
		return ""
	}
	return p.Phase
}

func fault(args ...string) func(*trial) {
	return func(x *trial) { x.drive(append([]string{"fault", "--namespace", x.lane.kube.ns}, args...)...) }
}

func clear(x *trial) { x.drive("fault", "clear") }

func (x *trial) pod() string {
	k := x.lane.kube
	pods, err := k.Kube.CoreV1().Pods(k.ns).List(context.Background(), metav1.ListOptions{LabelSelector: k.pods})
	x.must(err)
	for i := range pods.Items {
		if strings.HasSuffix(pods.Items[i].Name, "-0") {
			return pods.Items[i].Name
		}
	}
	x.lane.t.Fatal("no pod of the database")
	return ""
}

func (x *trial) deletePod() {
	k := x.lane.kube
	x.must(k.Kube.CoreV1().Pods(k.ns).Delete(context.Background(), x.pod(), metav1.DeleteOptions{GracePeriodSeconds: new(int64)}))
}

// fillDisk takes what is left of the database's volume. The server may not
// survive it.
func (x *trial) fillDisk() {
	k := x.lane.kube
	script := "for d in /var/lib/postgresql/data /var/lib/mysql; do [ ! -d $d ] || cat /dev/zero > $d/filler 2>/dev/null || true; done; true"
	testcluster.Exec(x.lane.t, k.Cluster, k.ns, x.pod(), k.container, script)
}

// emptyDisk gives it back, from a pod of its own: the server's may not run.
func (x *trial) emptyDisk() {
	k := x.lane.kube
	pods := k.Kube.CoreV1().Pods(k.ns)
	claim := "data-" + x.target.Name + "-0"
	pod, err := pods.Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "cleaner-"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes:       []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}},
			Containers: []corev1.Container{{
				Name: "main", Image: testcluster.Tools, Command: []string{"rm", "-f", "/data/filler"}, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			}},
		},
	}, metav1.CreateOptions{})
	x.must(err)
	x.await("the disk is empty again", func() bool {
		p, err := pods.Get(context.Background(), pod.Name, metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodSucceeded
	})
	x.must(pods.Delete(context.Background(), pod.Name, metav1.DeleteOptions{}))
}
