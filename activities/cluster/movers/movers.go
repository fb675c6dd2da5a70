// Package movers runs a mover (package mover) where the data is: in a
// container that is there, or in a pod made for it. Start with InPod.
package movers

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

// Config of the pods that move data.
type Config struct {
	// Image with the mover, for pods that are made to move data, whatever
	// image a blueprint names for them: theirs has restic, which is not what
	// moves data here. Default: the blueprint's own image.
	Image string `yaml:"image"`
}

// Key returns the passphrase of repositories whose blueprint names none.
type Key func() (string, error)

// Movers of a cluster, which may be nil.
type Movers struct {
	Cluster *cluster.Cluster
	Config  Config
	Key     Key
}

const requestFile = "request.json"

// program is the mover's command; its argument is where it reads its request.
func program(from string) []string { return []string{"kando", "data", from} }

// Request begins the request of a call, with the run's location profile, and
// the worker's passphrase where none is given.
func (m *Movers) Request(env *function.Env, do, passphrase string) (*mover.Request, error) {
	if err := NeedProfile(env); err != nil {
		return nil, err
	}
	q := &mover.Request{Do: do, Profile: *env.Profile, Passphrase: passphrase}
	if passphrase == "" {
		var err error
		if q.Passphrase, err = m.Key(); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// NeedProfile is an error for a call whose run has no location profile.
func NeedProfile(env *function.Env) error {
	if env.NoProfile != nil {
		return env.NoProfile
	}
	if env.Profile == nil {
		return fault.New(fault.User, "the run has no location profile; give one, as profile: {name, namespace}")
	}
	return nil
}

// Here runs a mover in the worker itself: for what touches the location only.
func (m *Movers) Here(ctx context.Context, env *function.Env, q *mover.Request) (function.Outputs, error) {
	out, err := mover.Run(ctx, q, env.Log)
	if err != nil {
		return nil, err
	}
	outputs := function.Outputs{}
	for k, v := range out {
		outputs[k] = v
	}
	return outputs, nil
}

// InContainer runs a mover in a container that is there, which has it.
func (m *Movers) InContainer(ctx context.Context, env *function.Env, w podexec.Where, q *mover.Request) (function.Outputs, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	out, err := podexec.Run(ctx, m.Cluster, env, w, podexec.Command{Args: program("-"), Stdin: text})
	return complete(out, err)
}

// Pod for a mover.
type Pod struct {
	Namespace string
	Image     string // where the worker has none of its own
	podrun.Args
	Mounts   map[string]string // claim -> path
	ReadOnly bool
}

// The permissions of functions that move data in a pod of its own, without
// claims and with them.
var (
	RulesWithoutClaims = slices.Concat(podrun.Rules, podrun.FilesRules)
	Rules              = slices.Concat([]catalogue.Rule{{Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get"}}}, RulesWithoutClaims)
)

// InPod returns the act that runs a mover in a pod of its own. The request,
// which has credentials, is a file of the pod.
func (m *Movers) InPod(ctx context.Context, env *function.Env, t Pod, q *mover.Request) (function.Act, error) {
	text, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	pod, err := m.pod(ctx, env, t)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (function.Outputs, error) {
		return complete(podrun.Run(ctx, m.Cluster, env, podrun.Task{
			Pod: pod, Output: podrun.Container, Containers: []string{podrun.Container}, Files: map[string][]byte{requestFile: text},
		}))
	}, nil
}

// NeedImage is an error where neither the worker nor the caller has an image
// with the mover.
func (m *Movers) NeedImage(given string) (string, error) {
	switch {
	case m.Config.Image != "":
		return m.Config.Image, nil
	case given != "":
		return given, nil
	}
	return "", fault.New(fault.User, "no image with the mover is known: give the worker one (data.image), or the phase (image)")
}

func (m *Movers) pod(ctx context.Context, env *function.Env, t Pod) (*corev1.Pod, error) {
	image, err := m.NeedImage(t.Image)
	if err != nil {
		return nil, err
	}
	root := int64(0) // a volume's files are of any user, and come back as theirs
	container := corev1.Container{
		Name: podrun.Container, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: program(path.Join(podrun.FilesDir, requestFile)),
	}
	spec := corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{RunAsUser: &root}}
	for i, claim := range slices.Sorted(maps.Keys(t.Mounts)) {
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := m.Cluster.Kube.CoreV1().PersistentVolumeClaims(t.Namespace).Get(ctx, claim, metav1.GetOptions{})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("claim %s/%s: %w", t.Namespace, claim, err)
		}
		name := fmt.Sprintf("vol-%d", i)
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: t.Mounts[claim], ReadOnly: t.ReadOnly})
	}
	spec.Containers = []corev1.Container{container}
	return podrun.Pod(m.Cluster, env, t.Namespace, spec, t.Args, env.Pod.Override)
}

// One is the environment of one of the pods of a call: each has a name of its
// own. What a log was read to is remembered for none: each attempt finds the
// pods by their names, and has no outputs to lose.
func One(env *function.Env, i int) *function.Env {
	e := *env
	e.Key = fmt.Sprintf("%s-%d", env.Key, i)
	e.Recalled, e.Remember = "", func(string) {}
	return &e
}

// The version of the outputs that a mover's call has, which is Kanister's.
const (
	Version        = "version"
	OutputsVersion = "v0.0.0"
)

// killed is the first exit code that tells of a signal.
const killed = 128

// complete adds what Kanister's outputs have, and gives a mover's failure its
// kind. A mover that was killed, with its pod or without, is followed by
// another, which goes on near where it was.
func complete(out function.Outputs, err error) (function.Outputs, error) {
	var exit *cluster.ExitError
	switch {
	case errors.As(err, &exit):
		switch {
		case exit.Code == mover.ExitUser:
			err = fault.New(fault.User, "%s", err.Error())
		case exit.Code == mover.ExitTransient, exit.Code > killed:
			err = fault.New(fault.Transient, "%s", err.Error())
		}
	case errors.Is(err, podrun.ErrGone):
		err = fault.New(fault.Transient, "%s", err.Error())
	}
	if err != nil {
		return nil, err
	}
	if len(out) > 0 {
		out[Version] = OutputsVersion
	}
	return out, nil
}
