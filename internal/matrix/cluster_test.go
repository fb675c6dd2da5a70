package matrix

import (
	"context"
	"strings"
	"sync/atomic"
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
	// Its clients come back some time after it: the cut may come too late then.
	list := []cell{{name: "API server gone for 60 s before the plan", before: func(x *trial) {
		x.drive("kill", "kube-apiserver")
		x.later(away, func() { x.drive("start", "kube-apiserver") })
	}}}
	for _, p := range points {
		list = append(list, cell{name: "API server gone for 60 s " + p.name, point: p.point, mode: p.mode, act: (*trial).loseAPI})
	}
	return append(list,
		cell{name: "API server gone for 60 s while snapshots become ready", before: fault("--snapshot-ready-after", "20s"), after: clear, ok: true, act: (*trial).loseAPILater},
		cell{name: "kubelet killed in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.drive("kill", "kubelet")
			x.fault.Go()
		}, after: func(x *trial) { x.drive("start", "kubelet") }},
		cell{name: "target pod deleted in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.deletePod()
			x.await("the database is gone", x.lane.seen.fallen)
			x.fault.Go()
		}},
		cell{name: "snapshot never ready", before: fault("--never-ready"), after: clear, edit: func(b *blueprint) { b.setPhase("ready", "timeout", "5s") }},
		cell{name: "CSI driver fails", before: fault("--fail-snapshots"), after: clear},
		cell{name: "CSI driver cuts, and its answer is lost", before: fault("--lose-snapshots", "--times", "1"), after: clear},
		// The run goes on until the driver answers: it deletes what it may have cut.
		cell{name: "CSI driver hangs", before: fault("--hang-snapshots"), act: func(x *trial) {
			x.later(x.lane.maxFreeze+slack+time.Second, func() { clear(x) })
		}},
		cell{name: "CSI driver killed in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.drive("kill", "csi-driver")
			x.fault.Go()
			x.later(x.lane.maxFreeze+slack+time.Second, func() { x.drive("start", "csi-driver") })
		}},
		cell{name: "database's volume full in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.runsOut(x.fillVolume, x.emptyVolume)
		}},
		cell{name: "node's disk full in the cut", point: testenv.Cut, mode: testenv.Before, act: func(x *trial) {
			x.runsOut(func() { x.drive("disk", "full") }, func() { x.drive("disk", "free") })
		}},
	)
}

// drive tells the cluster what to do, and notes what that breaks.
func (x *trial) drive(args ...string) string {
	if args[0] == "kill" {
		x.lane.kube.broken = append(x.lane.kube.broken, args[1])
	}
	return testcluster.Drive(x.lane.t, args...)
}

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
	return func(x *trial) {
		x.driverFault = strings.TrimSpace(x.drive(append([]string{"fault", "--namespace", x.lane.kube.ns}, args...)...))
	}
}

// clear mends what fault broke, and nothing that others did.
func clear(x *trial) { x.drive("fault", "clear", x.driverFault) }

// deletePod deletes the pod of the database, and its server with it: it has no
// time to end in order. The service has no place for it from then on; its
// sessions live until it is dead.
func (x *trial) deletePod() {
	k := x.lane.kube
	old, err := k.pod(x.ctx)
	x.must(err)
	server, over := openInPod(x.lane.t, k.app, old.Status.PodIP), false
	ping := func(ctx context.Context) error {
		if over {
			return k.ping(ctx)
		}
		err := server.PingContext(ctx)
		over = x.lane.seen.fallen()
		return err
	}
	x.fall(ping, func() bool {
		now, err := k.pod(x.ctx)
		return err == nil && now.UID != old.UID && ready(now)
	})
	grace := int64(1)
	x.must(k.Kube.CoreV1().Pods(k.ns).Delete(x.ctx, old.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}))
}

// fall has the observer see the database's server go away, until it is back.
func (x *trial) fall(ping func(context.Context) error, back func() bool) {
	x.timers.Go(func() {
		down, before := x.lane.seen.fall(x.ctx, ping, back)
		x.lane.t.Logf("the database's server did not answer for %.1fs, which does not count as frozen; writers had waited %.1fs before it", down.Seconds(), before.Seconds())
	})
}

// runsOut lets the database run out of space for a while. The server may not
// survive it: then it starts again when it has room, in its own time.
func (x *trial) runsOut(fill, empty func()) {
	k := x.lane.kube
	pod, err := k.pod(x.ctx)
	x.must(err)
	var room atomic.Bool
	x.fall(openInPod(x.lane.t, k.app, pod.Status.PodIP).PingContext, func() bool {
		now, err := k.pod(x.ctx)
		return room.Load() && err == nil && ready(now)
	})
	fill()
	x.fault.Go()
	x.later(10*time.Second, func() { defer room.Store(true); empty() })
}

// fillVolume takes what is left of the database's volume.
func (x *trial) fillVolume() {
	k := x.lane.kube
	// What is only reserved takes no time; the rest is written.
	script := `for d in /var/lib/postgresql/data /var/lib/mysql; do
		mountpoint -q $d || continue # else it is the node that is filled
		n=0
		for size in 256M 64M 16M 4M 1M; do
			while n=$((n+1)); fallocate -l $size $d/filler.$n 2>/dev/null; do :; done
		done
		cat /dev/zero > $d/filler 2>/dev/null
	done
	true`
	testcluster.Exec(x.lane.t, k.Cluster, k.ns, k.service+"-0", k.container, script)
}

// emptyVolume gives it back, from a pod of its own: the server's may not run.
func (x *trial) emptyVolume() {
	k := x.lane.kube
	pods := k.Kube.CoreV1().Pods(k.ns)
	pod, err := pods.Create(context.Background(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "cleaner-"},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			Volumes:       []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: k.claim}}}},
			Containers: []corev1.Container{{
				Name: "main", Image: testcluster.Tools, Command: []string{"sh", "-c", "rm -f /data/filler*"}, VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
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
