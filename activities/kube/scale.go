package kube

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"thaw/activities/cluster"
	"thaw/activities/function"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
)

type scaleArgs struct {
	Namespace    string `arg:"namespace" doc:"Namespace of the workload; the target's where there is none"`
	Name         string `arg:"name" doc:"Name of the workload; the target's where there is none"`
	Kind         string `arg:"kind" enum:"deployment|statefulset|deploymentconfig" doc:"Kind of the workload; the target's where there is none"`
	Replicas     int    `arg:"replicas,required" doc:"Number of replicas"`
	WaitForReady bool   `arg:"waitForReady" default:"true" doc:"Wait until as many pods are ready, and no others are left"`
}

// scaleResources are the workloads that can be scaled, by Kanister's kinds.
var scaleResources = map[string]schema.GroupVersionResource{
	"deployment":       appsv1.SchemeGroupVersion.WithResource("deployments"),
	"statefulset":      appsv1.SchemeGroupVersion.WithResource("statefulsets"),
	"deploymentconfig": {Group: "apps.openshift.io", Version: "v1", Resource: "deploymentconfigs"},
}

// scaleWorkload is ScaleWorkload. Scaling down, it waits until the pods are
// gone and not only until the controller no longer counts them: a volume is
// used for as long as a pod that ends has it.
func scaleWorkload(c *cluster.Cluster) function.Function {
	return function.Prepared(catalogue.Function{
		Name: "ScaleWorkload", Family: family, Summary: "Scales a workload, and waits until its pods are there or gone.",
		Idempotent: true, Timeout: 30 * time.Minute,
		Outputs: []catalogue.Output{{Name: "originalReplicaCount", Description: "Number of replicas before"}},
		Rules: []catalogue.Rule{
			{Group: "apps", Resources: []string{"deployments", "statefulsets"}, Verbs: []string{"get", "list", "watch"}},
			{Group: "apps", Resources: []string{"deployments/scale", "statefulsets/scale"}, Verbs: []string{"get", "patch"}},
			{Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
		},
	}, func(ctx context.Context, env *function.Env, a scaleArgs) (function.Act, func(), error) {
		if err := c.Need(); err != nil {
			return nil, nil, err
		}
		s, err := newScaler(c, env, a)
		if err != nil {
			return nil, nil, fmt.Errorf("ScaleWorkload: %w", err)
		}
		if err := s.look(ctx); err != nil {
			return nil, nil, fmt.Errorf("ScaleWorkload: %s: %w", s, err)
		}
		return func(ctx context.Context) (function.Outputs, error) {
			out, err := s.scale(ctx)
			if err != nil {
				return nil, fmt.Errorf("ScaleWorkload: %s: %w", s, err)
			}
			return out, nil
		}, nil, nil
	})
}

type scaler struct {
	c    *cluster.Cluster
	env  *function.Env
	args scaleArgs
	gvr  schema.GroupVersionResource

	before   int64
	selector string
}

func newScaler(c *cluster.Cluster, env *function.Env, a scaleArgs) (*scaler, error) {
	t := env.Target
	if scaleResources[strings.ToLower(t.Kind)].Resource != "" {
		a.Kind, a.Name, a.Namespace = orDefault(a.Kind, t.Kind), orDefault(a.Name, t.Name), orDefault(a.Namespace, t.Namespace)
	}
	if a.Kind == "" || a.Name == "" || a.Namespace == "" {
		return nil, fault.New(fault.User, "the target is no workload: give namespace, name and kind")
	}
	if a.Replicas < 0 {
		return nil, fault.New(fault.User, "replicas is %d", a.Replicas)
	}
	gvr, ok := scaleResources[strings.ToLower(a.Kind)]
	if !ok {
		return nil, fault.New(fault.User, "kind %q cannot be scaled", a.Kind)
	}
	return &scaler{c: c, env: env, args: a, gvr: gvr}, nil
}

func (s *scaler) String() string {
	return strings.ToLower(s.args.Kind) + " " + s.args.Namespace + "/" + s.args.Name
}

// remembered is what a run's first attempt found, for the next one: it must
// not take what the first one did for what was there before.
const remembered = "replicas "

// look finds what is there before.
func (s *scaler) look(ctx context.Context) error {
	r := s.c.Dynamic.Resource(s.gvr).Namespace(s.args.Namespace)
	var scale, object *unstructured.Unstructured
	err := cluster.Insist(ctx, s.env.Heartbeat, func(ctx context.Context) (err error) {
		if scale, err = r.Get(ctx, s.args.Name, metav1.GetOptions{}, "scale"); err != nil {
			return err
		}
		object, err = r.Get(ctx, s.args.Name, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	s.before, _, _ = unstructured.NestedInt64(scale.Object, "spec", "replicas")
	var n int64
	if _, err := fmt.Sscanf(s.env.Recalled, remembered+"%d", &n); err == nil {
		s.before = n
	}
	s.env.Remember(fmt.Sprintf("%s%d", remembered, s.before))
	if s.args.Kind != "" && s.gvr.Group != "apps" { // a DeploymentConfig's selector is a map of labels
		labels, _, _ := unstructured.NestedStringMap(object.Object, "spec", "selector")
		s.selector = metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: labels})
		return nil
	}
	var typed struct {
		Spec struct {
			Selector *metav1.LabelSelector `json:"selector"`
		} `json:"spec"`
	}
	if err := cluster.Convert(object, &typed); err != nil {
		return err
	}
	s.selector = metav1.FormatLabelSelector(typed.Spec.Selector)
	return nil
}

func (s *scaler) scale(ctx context.Context) (function.Outputs, error) {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, s.args.Replicas)
	err := cluster.Insist(ctx, s.env.Heartbeat, func(ctx context.Context) error {
		_, err := s.c.Dynamic.Resource(s.gvr).Namespace(s.args.Namespace).Patch(ctx, s.args.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "scale")
		return err
	})
	if err != nil {
		return nil, err
	}
	out := function.Outputs{"originalReplicaCount": s.before}
	if !s.args.WaitForReady {
		return out, nil
	}
	if err := s.settled(ctx); err != nil {
		return nil, err
	}
	if err := s.gone(ctx); err != nil {
		return nil, err
	}
	return out, nil
}

// workload is what the three kinds have in common.
type workload struct {
	Metadata metav1.ObjectMeta       `json:"metadata"`
	Spec     autoscalingv1.ScaleSpec `json:"spec"`
	Status   workloadStatus          `json:"status"`
}

type workloadStatus struct {
	ObservedGeneration int64 `json:"observedGeneration"`
	Replicas           int32 `json:"replicas"`
	ReadyReplicas      int32 `json:"readyReplicas"`
	UpdatedReplicas    int32 `json:"updatedReplicas"`
}

// settled waits until the controller has made what was asked.
func (s *scaler) settled(ctx context.Context) error {
	want := int32(s.args.Replicas)
	return cluster.Until(ctx, s.c, cluster.Watched{Resource: s.gvr, Namespace: s.args.Namespace, Name: s.args.Name, Note: s.env.Heartbeat},
		func(all []workload) (string, error) {
			if len(all) == 0 {
				return "", fault.New(fault.Permanent, "it was deleted")
			}
			w := all[0]
			switch {
			case w.Spec.Replicas != want:
				return "", fault.New(fault.Permanent, "it was scaled to %d by somebody else", w.Spec.Replicas)
			case w.Status.ObservedGeneration < w.Metadata.Generation:
				return "its controller to see the change", nil
			case w.Status.Replicas != want || w.Status.ReadyReplicas != want:
				return fmt.Sprintf("%d of %d pods are ready, %d are there", w.Status.ReadyReplicas, want, w.Status.Replicas), nil
			}
			return "", nil
		})
}

// gone waits until no more pods are there than were asked for.
func (s *scaler) gone(ctx context.Context) error {
	return cluster.Until(ctx, s.c, cluster.Watched{Resource: corev1.SchemeGroupVersion.WithResource("pods"), Namespace: s.args.Namespace, Labels: s.selector, Note: s.env.Heartbeat},
		func(pods []corev1.Pod) (string, error) {
			var ending []string
			for i := range pods {
				if pods[i].DeletionTimestamp != nil || s.args.Replicas == 0 && pods[i].Status.Phase != corev1.PodSucceeded && pods[i].Status.Phase != corev1.PodFailed {
					ending = append(ending, pods[i].Name)
				}
			}
			if len(ending) > 0 {
				return "pods are still there: " + strings.Join(ending, ", "), nil
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
