package podrun

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

// FilesDir is where a pod finds the files of its task.
const FilesDir = "/run/thaw"

// FilesRules are the permissions that Run needs besides, for a task with
// files.
var FilesRules = []catalogue.Rule{{Resources: []string{"secrets"}, Verbs: []string{"create"}}}

const filesVolume = "thaw-files"

// mount puts the task's files into the pod's spec. Their Secret is of this pod
// alone: that of an earlier one may still be there.
func (r *run) mount() {
	name := r.pod.Name + "-" + rand.String(8)
	mode := int32(0o444) // whoever the container runs as
	r.pod.Spec.Volumes = append(r.pod.Spec.Volumes, corev1.Volume{Name: filesVolume, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: &mode},
	}})
	for i := range r.pod.Spec.Containers {
		if c := &r.pod.Spec.Containers[i]; c.Name == r.task.Output {
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: filesVolume, MountPath: FilesDir, ReadOnly: true})
		}
	}
}

// give makes the Secret with the task's files, after the pod: the pod is its
// owner, so the cluster deletes it with the pod, whatever becomes of us. The
// kubelet waits for it.
func (r *run) give(ctx context.Context) error {
	if begun(r.pod, r.task.Output) || over(r.pod) {
		return nil // an earlier attempt's pod, which has them
	}
	i := slices.IndexFunc(r.pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == filesVolume && v.Secret != nil })
	if i < 0 {
		return fault.New(fault.Permanent, "the pod has no volume %s; another made it, or an admission webhook changed it", filesVolume)
	}
	yes := true
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.pod.Spec.Volumes[i].Secret.SecretName, Namespace: r.pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: r.pod.Name, UID: r.pod.UID, Controller: &yes}},
		},
		Immutable: &yes, Data: r.task.Files,
	}
	cluster.Mark(s, r.env.Key, r.env.Run.ID, r.env.Owner)
	secrets := r.c.Kube.CoreV1().Secrets(r.pod.Namespace)
	return cluster.Insist(ctx, r.env.Heartbeat, func(ctx context.Context) error {
		_, err := secrets.Create(ctx, s, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // of an attempt before this one, or of a try whose answer was not heard
		}
		return err
	})
}
