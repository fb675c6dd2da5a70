package podrun

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
)

// FilesDir is where a pod finds the files of its task.
const FilesDir = "/run/thaw"

// FilesRules are the permissions that Run needs besides, for a task with
// files.
var FilesRules = []catalogue.Rule{{Resources: []string{"secrets"}, Verbs: []string{"create", "delete"}}}

const filesVolume = "thaw-files"

// mount puts the task's files into the pod's spec.
func (r *run) mount() {
	mode := int32(0o444) // whoever the container runs as
	r.pod.Spec.Volumes = append(r.pod.Spec.Volumes, corev1.Volume{Name: filesVolume, VolumeSource: corev1.VolumeSource{
		Secret: &corev1.SecretVolumeSource{SecretName: r.pod.Name, DefaultMode: &mode},
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
	yes := true
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: r.pod.Name, Namespace: r.pod.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: r.pod.Name, UID: r.pod.UID, Controller: &yes}},
		},
		Immutable: &yes, Data: r.task.Files,
	}
	cluster.Mark(s, r.env.Key, r.env.Run.ID, r.env.Owner)
	secrets := r.c.Kube.CoreV1().Secrets(r.pod.Namespace)
	return cluster.Insist(ctx, r.env.Heartbeat, func(ctx context.Context) error {
		_, err := secrets.Create(ctx, s, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		// Of an attempt whose answer was not heard, or of the pod before this one.
		if err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		_, err = secrets.Create(ctx, s, metav1.CreateOptions{})
		return err
	})
}
