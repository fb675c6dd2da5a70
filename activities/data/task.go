package data

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/cluster/podexec"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/activities/mover"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

const requestFile = "request.json"

// program is the mover's command; its argument is where it reads its request.
func program(from string) []string { return []string{"kando", "data", from} }

// inContainer runs a mover in a container that is there, which has it.
func (m *maker) inContainer(ctx context.Context, env *function.Env, w podexec.Where, q *mover.Request) (function.Outputs, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	out, err := podexec.Run(ctx, m.c, env, w, podexec.Command{Args: program("-"), Stdin: text})
	return complete(out, err)
}

// task is a pod for a mover.
type task struct {
	namespace string
	image     string
	pod       podrun.Args
	mounts    map[string]string // claim -> path
	readOnly  bool
}

// The permissions of functions that move data in a pod of its own, without
// claims and with them.
var (
	withoutClaims = slices.Concat(podrun.Rules, podrun.FilesRules)
	podRules      = slices.Concat([]catalogue.Rule{{Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get"}}}, withoutClaims)
)

// inPod returns the act that runs a mover in a pod of its own. The request,
// which has credentials, is a file of the pod.
func (m *maker) inPod(ctx context.Context, env *function.Env, t task, q *mover.Request) (function.Act, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	pod, err := m.pod(ctx, env, t)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (function.Outputs, error) {
		return complete(podrun.Run(ctx, m.c, env, podrun.Task{
			Pod: pod, Output: podrun.Container, Containers: []string{podrun.Container}, Files: map[string][]byte{requestFile: text},
		}))
	}, nil
}

func (m *maker) pod(ctx context.Context, env *function.Env, t task) (*corev1.Pod, error) {
	image := m.cfg.Image
	if image == "" {
		image = t.image
	}
	if image == "" {
		return nil, fault.New(fault.User, "no image with the mover is known: give the worker one (data.image), or the phase (image)")
	}
	root := int64(0) // a volume's files are of any user, and come back as theirs
	container := corev1.Container{
		Name: podrun.Container, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: program(path.Join(podrun.FilesDir, requestFile)),
	}
	spec := corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: &root}}
	for i, claim := range slices.Sorted(maps.Keys(t.mounts)) {
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := m.c.Kube.CoreV1().PersistentVolumeClaims(t.namespace).Get(ctx, claim, metav1.GetOptions{})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("claim %s/%s: %w", t.namespace, claim, err)
		}
		name := fmt.Sprintf("vol-%d", i)
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: t.mounts[claim], ReadOnly: t.readOnly})
	}
	spec.Containers = []corev1.Container{container}
	return podrun.Pod(m.c, env, t.namespace, spec, t.pod, env.Pod.Override)
}

// complete adds what Kanister's outputs have, and gives a mover's failure its
// kind.
func complete(out function.Outputs, err error) (function.Outputs, error) {
	var exit *cluster.ExitError
	if errors.As(err, &exit) {
		switch exit.Code {
		case mover.ExitUser:
			err = fault.New(fault.User, "%s", err.Error())
		case mover.ExitTransient:
			err = fault.New(fault.Transient, "%s", err.Error())
		}
	}
	if err != nil {
		return nil, err
	}
	if len(out) > 0 {
		out[version.Name] = outputsVersion
	}
	return out, nil
}
