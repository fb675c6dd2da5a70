// Package podrun runs a command in a pod made for it, and takes its result,
// whatever happens meanwhile to the worker, to the stream of its log, or to
// the API server: the pod's name derives from the call, so that a later
// attempt finds it, running or finished, and never starts a second one. Start
// with Run; logs.go reads the output.
package podrun

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

// Rules are the permissions that Run needs in the pod's namespace.
var Rules = []catalogue.Rule{
	{Resources: []string{"pods"}, Verbs: []string{"create", "get", "list", "watch", "delete"}},
	{Resources: []string{"pods/log"}, Verbs: []string{"get"}},
}

// StartLimit is how long a pod may take until its containers run; Kanister's
// default.
const StartLimit = 15 * time.Minute

// Task is a pod whose containers run to their end.
type Task struct {
	// Pod without a name; its namespace is set.
	Pod *corev1.Pod
	// Output is the container whose kando output counts.
	Output string
	// Files are given to the container Output in a directory of their own, Files
	// of the pod, by a Secret that goes away with the pod.
	Files map[string][]byte
	// Containers that must end well, Output among them. Others, which an
	// admission webhook may have added, are not waited for.
	Containers []string
}

// Errors of Run: fault.Command where a container ended badly (its last words,
// its exit code and the pod are in the text), fault.Permanent where the pod
// was taken away before its end was known, or cannot start; those of
// cluster.Classify.
//
// Run makes the pod, or finds the one that an earlier attempt of the call made,
// waits for its end, and returns its output.
func Run(ctx context.Context, c *cluster.Cluster, env *function.Env, t Task) (function.Outputs, error) {
	r := &run{c: c, env: env, task: t, pod: t.Pod.DeepCopy()}
	r.pod.Name = env.Key
	cluster.Mark(r.pod, env.Key, env.Run.ID, env.Owner)
	r.pod.Annotations[AnnotationActivity] = env.Run.RunID + "/" + env.Activity
	r.log = newReader(r)
	if len(t.Files) > 0 {
		r.mount()
	}
	if err := r.start(ctx); err != nil {
		return nil, fmt.Errorf("pod %s: %w", r.name(), err)
	}
	if len(t.Files) > 0 {
		if err := r.give(ctx); err != nil {
			r.end(ctx)
			return nil, fmt.Errorf("pod %s: its files: %w", r.name(), err)
		}
	}
	env.After(func(ctx context.Context) {
		if err := remove(ctx, c, r.pod.Namespace, r.pod.Name, r.pod.UID); err != nil {
			env.Log.Warn("pod not deleted; it is swept later", "pod", r.name(), "error", err)
		}
	})
	out, err := r.finish(ctx)
	if ctx.Err() != nil && !env.Stopping() {
		// Its time is over, or it was cancelled: what it does must end, before
		// what it did is undone.
		r.end(ctx)
	}
	return out, err
}

// AnnotationActivity says which activity of a run takes the pod's result, as
// RUN-ID/ACTIVITY-ID: the sweep of orphaned pods asks whether it is over.
const AnnotationActivity = "thaw.dev/activity"

type run struct {
	c    *cluster.Cluster
	env  *function.Env
	task Task
	pod  *corev1.Pod // as it is known
	log  *reader
}

func (r *run) name() string { return r.pod.Namespace + "/" + r.pod.Name }

func (r *run) pods() podInterface { return r.c.Kube.CoreV1().Pods(r.pod.Namespace) }

// start makes the pod, or finds it.
func (r *run) start(ctx context.Context) error {
	known := r.log.recall(r.env.Recalled)
	if known != "" && !r.env.Reported {
		found, err := r.find(ctx)
		if err != nil {
			return err
		}
		if found == nil || found.UID != known {
			return gone()
		}
		r.pod = found
		return nil
	}
	var made *corev1.Pod
	err := cluster.Insist(ctx, r.env.Heartbeat, func(ctx context.Context) (err error) {
		made, err = r.pods().Create(ctx, r.pod, metav1.CreateOptions{})
		return err
	})
	switch {
	case err == nil:
		r.pod = made
	case apierrors.IsAlreadyExists(err):
		if err := r.adopt(ctx); err != nil {
			return err
		}
	default:
		return err
	}
	r.log.remember(r.pod.UID)
	return nil
}

// adopt takes the pod of the call's name: an earlier attempt made it, or this
// one, without hearing the answer.
func (r *run) adopt(ctx context.Context) error {
	found, err := r.find(ctx)
	if err != nil {
		return err
	}
	switch {
	case found == nil:
		return fault.New(fault.Transient, "it was there, and went away")
	case !cluster.MadeBy(found, r.env.Key):
		return fault.New(fault.Permanent, "a pod of this name is there, and is not of this call; delete it if nobody needs it")
	case !r.env.Reported && found.DeletionTimestamp == nil:
		r.pod = found
		r.log.late = true
		return nil
	}
	// It is of an attempt that failed, or is on its way out.
	if err := remove(ctx, r.c, found.Namespace, found.Name, found.UID); err != nil {
		return err
	}
	return cluster.Insist(ctx, r.env.Heartbeat, func(ctx context.Context) error {
		made, err := r.pods().Create(ctx, r.pod, metav1.CreateOptions{})
		if err == nil {
			r.pod = made
		}
		return err
	})
}

func (r *run) find(ctx context.Context) (*corev1.Pod, error) {
	var found *corev1.Pod
	err := cluster.Insist(ctx, r.env.Heartbeat, func(ctx context.Context) (err error) {
		found, err = r.pods().Get(ctx, r.pod.Name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return found, err
}

// ErrGone is wrapped where the pod was taken away before its end was known.
var ErrGone = errors.New("it was deleted before its end was known, by a person, a drained node or the collection of old pods")

func gone() error {
	return fault.New(fault.Permanent, "%w; look at what its command did, then run the action again", ErrGone)
}

// finish waits for the end of the task's containers, reading the log meanwhile.
func (r *run) finish(ctx context.Context) (function.Outputs, error) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	started := time.Now()
	limit, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(StartLimit, func() {
		cancel(fault.New(fault.Command, "it did not start within %s", StartLimit))
	})
	defer timer.Stop()
	running := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-running:
			r.log.follow(reading)
		case <-reading.Done():
		}
	}()
	began := false
	var last corev1.Pod
	err := cluster.Until(limit, r.c, cluster.Watched{
		Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: r.pod.Namespace, Name: r.pod.Name, Note: r.env.Heartbeat,
	}, func(pods []corev1.Pod) (string, error) {
		pod := r.own(pods)
		if pod == nil {
			return "", gone()
		}
		last = *pod
		if !began && (begun(pod, r.task.Output) || over(pod)) {
			began = true
			timer.Stop()
			close(running)
			r.env.Log.Info("pod runs", "pod", r.name(), "node", pod.Spec.NodeName, "after", time.Since(started).Round(time.Millisecond))
		}
		return r.missing(pod)
	})
	stop()
	<-done
	if cause := context.Cause(limit); err != nil && ctx.Err() == nil && cause != nil {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	if err != nil {
		return nil, fmt.Errorf("pod %s: %w", r.name(), err)
	}
	readErr := r.log.drain(ctx, &last)
	if err := r.verdict(&last); err != nil {
		return nil, err
	}
	if readErr != nil {
		return nil, fmt.Errorf("pod %s ended well, but its output is not known: %w", r.name(), readErr)
	}
	out, err := r.log.parser.Close()
	if err != nil {
		return nil, fault.New(fault.Command, "pod %s ran, but its outputs cannot be read: %w", r.name(), err)
	}
	return out, nil
}

func (r *run) own(pods []corev1.Pod) *corev1.Pod {
	for i := range pods {
		if pods[i].UID == r.pod.UID {
			return &pods[i]
		}
	}
	return nil
}

// missing says what the task still waits for.
func (r *run) missing(pod *corev1.Pod) (string, error) {
	if over(pod) {
		return "", nil
	}
	var left []string
	for _, name := range r.task.Containers {
		s := status(pod, name)
		switch {
		case s == nil:
			left = append(left, name)
		case s.State.Terminated != nil:
			if s.State.Terminated.ExitCode != 0 {
				return "", nil // it is decided
			}
		case s.State.Waiting != nil && hopeless[s.State.Waiting.Reason]:
			return "", fault.New(fault.User, "container %s cannot start: %s: %s", name, s.State.Waiting.Reason, s.State.Waiting.Message)
		case s.State.Waiting != nil && s.State.Waiting.Reason != "" && s.State.Waiting.Reason != "PodInitializing":
			left = append(left, fmt.Sprintf("%s (%s)", name, strings.TrimSpace(s.State.Waiting.Reason+" "+s.State.Waiting.Message)))
		default:
			left = append(left, name)
		}
	}
	for i := range pod.Status.InitContainerStatuses {
		if s := &pod.Status.InitContainerStatuses[i]; s.State.Waiting != nil && hopeless[s.State.Waiting.Reason] {
			return "", fault.New(fault.User, "container %s cannot start: %s: %s", s.Name, s.State.Waiting.Reason, s.State.Waiting.Message)
		}
	}
	if len(left) == 0 {
		return "", nil
	}
	for _, cond := range pod.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionFalse {
			return fmt.Sprintf("pod %s is not scheduled: %s", r.name(), cond.Message), nil
		}
	}
	return fmt.Sprintf("the end of pod %s: %s", r.name(), strings.Join(left, ", ")), nil
}

// hopeless are reasons that no waiting mends.
var hopeless = map[string]bool{"InvalidImageName": true, "ErrImageNeverPull": true}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func begun(pod *corev1.Pod, container string) bool {
	s := status(pod, container)
	return s != nil && (s.State.Running != nil || s.State.Terminated != nil)
}

func status(pod *corev1.Pod, container string) *corev1.ContainerStatus {
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Name == container {
			return &pod.Status.ContainerStatuses[i]
		}
	}
	return nil
}

// verdict says which container of a pod that is over ended badly, and how.
func (r *run) verdict(pod *corev1.Pod) error {
	for i := range pod.Status.InitContainerStatuses {
		s := &pod.Status.InitContainerStatuses[i]
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			return r.failed(pod, s.Name, t)
		}
	}
	for _, name := range r.task.Containers {
		s := status(pod, name)
		if s == nil || s.State.Terminated == nil {
			if pod.Status.Phase == corev1.PodFailed { // evicted, or its node is lost
				return fault.New(fault.Unknown, "pod %s: %s: %s", r.name(), orDefault(pod.Status.Reason, "failed"), orDefault(pod.Status.Message, "container "+name+" did not end by itself"))
			}
			continue
		}
		if t := s.State.Terminated; t.ExitCode != 0 {
			return r.failed(pod, name, t)
		}
	}
	return nil
}

// failed puts the command's own words, its exit code and the pod into one error.
func (r *run) failed(pod *corev1.Pod, container string, t *corev1.ContainerStateTerminated) error {
	why := ""
	if t.Reason != "" && t.Reason != "Error" {
		why = " (" + t.Reason + ")"
	}
	if t.Signal != 0 {
		why += fmt.Sprintf(" by signal %d", t.Signal)
	}
	words := strings.TrimSpace(t.Message)
	if container == r.task.Output && words == "" {
		words = r.log.tail.String()
	} else if words == "" {
		words = r.lastWords(container)
	}
	if words == "" {
		words = orDefault(pod.Status.Message, "it printed nothing")
	}
	kind := fault.Command
	if pod.Status.Reason == "Evicted" || pod.Status.Reason == "NodeLost" {
		kind = fault.Unknown
		why += ", " + pod.Status.Reason
	}
	return fault.New(kind, "pod %s, container %s: %w%s: %s", r.name(), container, &cluster.ExitError{Code: int(t.ExitCode)}, why, words)
}

// lastWords reads the end of another container's log.
func (r *run) lastWords(container string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lines := int64(10)
	b, err := r.pods().GetLogs(r.pod.Name, &corev1.PodLogOptions{Container: container, TailLines: &lines}).DoRaw(ctx)
	if err != nil {
		return fmt.Sprintf("(its log cannot be read: %v)", err)
	}
	tail := r.log.newTail()
	_, _ = tail.Write(b)
	return tail.String()
}

// endLimit is how long a pod that must end may take.
const endLimit = 45 * time.Second

// end deletes the pod, and waits until it is gone.
func (r *run) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	if err := remove(ctx, r.c, r.pod.Namespace, r.pod.Name, r.pod.UID); err != nil {
		r.env.Log.Error("pod may still run", "pod", r.name(), "error", err)
	}
	r.env.Remember("")
}

// remove deletes a pod, and waits until it is gone.
func remove(ctx context.Context, c *cluster.Cluster, namespace, name string, uid types.UID) error {
	pods := c.Kube.CoreV1().Pods(namespace)
	err := cluster.Insist(ctx, nil, func(ctx context.Context) error {
		grace := int64(10)
		err := pods.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &grace, Preconditions: &metav1.Preconditions{UID: &uid}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone, or another pod by now
		}
		return err
	})
	if err != nil {
		return err
	}
	return cluster.Until(ctx, c, cluster.Watched{
		Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: namespace, Name: name,
	}, func(pods []corev1.Pod) (string, error) {
		for i := range pods {
			if pods[i].UID == uid {
				return fmt.Sprintf("pod %s/%s is still there", namespace, name), nil
			}
		}
		return "", nil
	})
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

var errLost = errors.New("lines of the log were lost")
