package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/activities/cluster"
	"thaw/activities/cluster/podrun"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type taskArgs struct {
	Namespace   string   `arg:"namespace" doc:"Namespace of the pod; the worker's where there is none"`
	Image       string   `arg:"image,required" doc:"Image of the container"`
	Command     []string `arg:"command,required" doc:"Command and arguments; what it prints with kando output is the phase's output"`
	podrun.Args `arg:",squash"`
}

func kubeTask(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "KubeTask", Family: family, Summary: "Runs a command in a pod made for it, and waits for its end.",
		OpenOutputs: true, Reattach: true, Timeout: podCall, Rules: podrun.Rules,
	}, func(_ context.Context, env *function.Env, a taskArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		pod, err := podrun.Pod(c, env, a.Namespace, corev1.PodSpec{Containers: []corev1.Container{{
			Name: podrun.Container, Image: a.Image, Command: a.Command, ImagePullPolicy: corev1.PullIfNotPresent,
		}}}, a.Args, env.Pod.Override)
		if err != nil {
			return nil, nil, fmt.Errorf("KubeTask: %w", err)
		}
		return podAct("KubeTask", c, env, pod, podrun.Container), nil, nil
	})
}

func podAct(name string, c *cluster.Cluster, env *function.Env, pod *corev1.Pod, output string, others ...string) function.Act {
	return func(ctx context.Context) (function.Outputs, error) {
		out, err := podrun.Run(ctx, c, env, podrun.Task{Pod: pod, Output: output, Containers: append([]string{output}, others...)})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return out, nil
	}
}

type multiArgs struct {
	Namespace             string   `arg:"namespace" doc:"Namespace of the pod; the worker's where there is none"`
	InitImage             string   `arg:"initImage" doc:"Image of the container that runs first"`
	InitCommand           []string `arg:"initCommand" doc:"Command of the container that runs first"`
	BackgroundImage       string   `arg:"backgroundImage,required" doc:"Image of the container in the background"`
	BackgroundCommand     []string `arg:"backgroundCommand,required" doc:"Command of the container in the background"`
	OutputImage           string   `arg:"outputImage,required" doc:"Image of the container whose kando output counts"`
	OutputCommand         []string `arg:"outputCommand,required" doc:"Command of the container whose kando output counts"`
	SharedVolumeMedium    string   `arg:"sharedVolumeMedium" doc:"Medium of the shared volume, such as Memory"`
	SharedVolumeSizeLimit string   `arg:"sharedVolumeSizeLimit" doc:"Size limit of the shared volume, such as 1Gi"`
	SharedVolumeDir       string   `arg:"sharedVolumeDir" default:"/tmp/" doc:"Where the shared volume is mounted"`
	podrun.Args           `arg:",squash"`
}

const (
	background = "background"
	output     = "output"
	shared     = "shared"
)

func multiContainerRun(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "MultiContainerRun", Family: family, Summary: "Runs two commands, in containers that share a volume, in a pod made for it.",
		OpenOutputs: true, Reattach: true, Timeout: podCall, Rules: podrun.Rules,
	}, func(_ context.Context, env *function.Env, a multiArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		pod, err := a.pod(c, env)
		if err != nil {
			return nil, nil, fmt.Errorf("MultiContainerRun: %w", err)
		}
		return podAct("MultiContainerRun", c, env, pod, output, background), nil, nil
	})
}

func (a *multiArgs) pod(c *cluster.Cluster, env *function.Env) (*corev1.Pod, error) {
	volume := &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMedium(a.SharedVolumeMedium)}
	if a.SharedVolumeSizeLimit != "" {
		size, err := resource.ParseQuantity(a.SharedVolumeSizeLimit)
		if err != nil {
			return nil, fault.New(fault.User, "sharedVolumeSizeLimit %q: %w", a.SharedVolumeSizeLimit, err)
		}
		volume.SizeLimit = &size
	}
	mounts := []corev1.VolumeMount{{Name: shared, MountPath: a.SharedVolumeDir}}
	spec := corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: shared, VolumeSource: corev1.VolumeSource{EmptyDir: volume}}},
		Containers: []corev1.Container{
			{Name: output, Image: a.OutputImage, Command: a.OutputCommand, VolumeMounts: mounts},
			{Name: background, Image: a.BackgroundImage, Command: a.BackgroundCommand, VolumeMounts: mounts},
		},
	}
	if a.InitImage != "" {
		spec.InitContainers = []corev1.Container{{Name: "init", Image: a.InitImage, Command: a.InitCommand, VolumeMounts: mounts}}
	} else if len(a.InitCommand) > 0 {
		return nil, fault.New(fault.User, "initCommand without initImage")
	}
	pod, err := podrun.Pod(c, env, a.Namespace, spec, a.Args, forBoth(env.Pod.Override))
	if err == nil {
		pod.Annotations["kubectl.kubernetes.io/default-container"] = output
	}
	return pod, err
}

// forBoth gives what a run's override says of the container "container", a name
// that this pod does not have, to both of its containers, as Kanister does.
// Where it names one of them it is left as it is.
func forBoth(override map[string]any) map[string]any {
	list, _ := override["containers"].([]any)
	var out []any
	var general map[string]any
	for _, e := range list {
		o, ok := e.(map[string]any)
		if !ok {
			return override
		}
		switch o["name"] {
		case podrun.Container:
			general = o
		case background, output:
			return override
		default:
			out = append(out, o)
		}
	}
	if general == nil {
		return override
	}
	for _, name := range []string{background, output} {
		o := maps.Clone(general)
		o["name"] = name
		out = append(out, o)
	}
	override = maps.Clone(override)
	override["containers"] = out
	return override
}

type prepareArgs struct {
	Namespace      string            `arg:"namespace,required" doc:"Namespace of the pod"`
	Image          string            `arg:"image,required" doc:"Image of the container"`
	Volumes        map[string]string `arg:"volumes" doc:"Claim to mount path; all claims of the workload, below /mnt/prepare_data, where there is none"`
	Command        []string          `arg:"command,required" doc:"Command and arguments"`
	ServiceAccount string            `arg:"serviceaccount" doc:"Service account of the pod"`
	FailOnError    bool              `arg:"failOnError" default:"false" doc:"Fail the phase where the command fails"`
	podrun.Args    `arg:",squash"`
}

// prepareData is PrepareData. As Kanister's, it takes a command that failed for
// done unless failOnError says otherwise; it says so in the log, and in the
// output "ignoredError".
func prepareData(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "PrepareData", Family: family, Summary: "Runs a command in a pod that mounts the target's volumes.",
		OpenOutputs: true, Reattach: true, Timeout: podCall,
		Rules: append([]catalogue.Rule{{Resources: []string{"persistentvolumeclaims"}, Verbs: []string{"get"}}}, podrun.Rules...),
	}, func(ctx context.Context, env *function.Env, a prepareArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		pod, err := a.pod(ctx, c, env)
		if err != nil {
			return nil, nil, fmt.Errorf("PrepareData: %w", err)
		}
		run := podAct("PrepareData", c, env, pod, podrun.Container)
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := run(ctx)
			if err != nil && !a.FailOnError && fault.Of(err) == fault.Command && ctx.Err() == nil {
				env.Log.Warn("the command failed, and failOnError is not set: the phase goes on as if it had not", "error", err)
				return function.Outputs{"ignoredError": err.Error()}, nil
			}
			return out, err
		}, nil, nil
	})
}

func (a *prepareArgs) pod(ctx context.Context, c *cluster.Cluster, env *function.Env) (*corev1.Pod, error) {
	claims := a.Volumes
	if len(claims) == 0 {
		claims = map[string]string{}
		for claim := range env.Workload.AllClaims() {
			claims[claim] = "/mnt/prepare_data/" + claim
		}
	}
	if len(claims) == 0 {
		return nil, fault.New(fault.User, "the target has no volumes, and the argument volumes names none")
	}
	container := corev1.Container{Name: podrun.Container, Image: a.Image, Command: a.Command, ImagePullPolicy: corev1.PullIfNotPresent}
	spec := corev1.PodSpec{ServiceAccountName: a.ServiceAccount}
	for i, claim := range slices.Sorted(maps.Keys(claims)) {
		err := cluster.Insist(ctx, env.Heartbeat, func(ctx context.Context) error {
			_, err := c.Kube.CoreV1().PersistentVolumeClaims(a.Namespace).Get(ctx, claim, metav1.GetOptions{})
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("claim %s/%s: %w", a.Namespace, claim, err)
		}
		volume := fmt.Sprintf("vol-%d", i)
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: claims[claim]})
	}
	spec.Containers = []corev1.Container{container}
	return podrun.Pod(c, env, a.Namespace, spec, a.Args, env.Pod.Override)
}
