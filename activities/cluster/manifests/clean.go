package manifests

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"thaw/activities/cluster"
)

// Skip says why an object is not part of an application's manifests; "" where
// it is.
func Skip(o *unstructured.Unstructured, all []unstructured.Unstructured) string {
	kind, name := o.GetKind(), o.GetName()
	switch {
	case Owned(o, all):
		return "its owner makes it"
	case o.GetLabels()[cluster.LabelManaged] == cluster.Managed && kind == "Pod":
		return "Thaw made it"
	case kind == "ConfigMap" && (name == "kube-root-ca.crt" || name == "openshift-service-ca.crt"):
		return "the cluster makes it"
	case kind == "ServiceAccount" && slices.Contains([]string{"default", "builder", "deployer"}, name):
		return "the cluster makes it"
	case kind == "Secret" && strings.HasPrefix(field(o, "type"), "kubernetes.io/service-account-token"):
		return "the cluster makes it"
	case kind == "Pod" && slices.Contains([]string{"Succeeded", "Failed"}, field(o, "status", "phase")):
		return "it is over"
	case kind == "Job" && finished(o):
		return "it is over, and would run again"
	case o.GetDeletionTimestamp() != nil:
		return "it is being deleted"
	}
	return ""
}

func field(o *unstructured.Unstructured, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

func finished(o *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if (m["type"] == "Complete" || m["type"] == "Failed") && m["status"] == "True" {
			return true
		}
	}
	return false
}

// assigned are annotations that a cluster puts on objects.
var assigned = []string{
	"kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision",
	"pv.kubernetes.io/", "volume.beta.kubernetes.io/", "volume.kubernetes.io/", "control-plane.alpha.kubernetes.io/",
	"batch.kubernetes.io/job-tracking", "thaw.dev/call", "thaw.dev/run",
}

// Clean returns an object without what a cluster assigned to it: what is left
// can be made again elsewhere.
func Clean(o *unstructured.Unstructured) *unstructured.Unstructured {
	out := o.DeepCopy()
	delete(out.Object, "status")
	meta := map[string]any{"name": o.GetName()}
	if ns := o.GetNamespace(); ns != "" {
		meta["namespace"] = ns
	}
	if labels := o.GetLabels(); len(labels) > 0 {
		meta["labels"] = anyMap(labels)
	}
	annotations := map[string]string{}
	for k, v := range o.GetAnnotations() {
		if !slices.ContainsFunc(assigned, func(a string) bool { return k == a || strings.HasSuffix(a, "/") && strings.HasPrefix(k, a) }) {
			annotations[k] = v
		}
	}
	if len(annotations) > 0 {
		meta["annotations"] = anyMap(annotations)
	}
	out.Object["metadata"] = meta
	remove := func(path ...string) { unstructured.RemoveNestedField(out.Object, path...) }
	switch o.GroupVersionKind().GroupKind().String() {
	case "Service":
		if field(o, "spec", "clusterIP") != "None" {
			remove("spec", "clusterIP")
			remove("spec", "clusterIPs")
		}
		remove("spec", "healthCheckNodePort")
		each(out.Object, func(port map[string]any) { delete(port, "nodePort") }, "spec", "ports")
	case "PersistentVolumeClaim":
		remove("spec", "volumeName")
	case "Pod":
		remove("spec", "nodeName")
		token := func(m map[string]any) bool {
			name, _ := m["name"].(string)
			return strings.HasPrefix(name, "kube-api-access-")
		}
		drop(out.Object, token, "spec", "volumes")
		for _, list := range []string{"containers", "initContainers"} {
			each(out.Object, func(c map[string]any) { drop(c, token, "volumeMounts") }, "spec", list)
		}
	case "ServiceAccount":
		drop(out.Object, func(m map[string]any) bool {
			name, _ := m["name"].(string)
			return strings.HasPrefix(name, o.GetName()+"-token-") || strings.HasPrefix(name, o.GetName()+"-dockercfg-")
		}, "secrets")
	case "Job.batch":
		remove("spec", "selector")
		for _, label := range []string{"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"} {
			remove("spec", "template", "metadata", "labels", label)
			remove("metadata", "labels", label)
		}
	}
	return out
}

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// each calls f for every mapping in a list of an object.
func each(o map[string]any, f func(map[string]any), path ...string) {
	list, _, _ := unstructured.NestedFieldNoCopy(o, path...)
	items, _ := list.([]any)
	for _, item := range items {
		if m, ok := item.(map[string]any); ok {
			f(m)
		}
	}
}

// drop takes the mappings out of a list that are as asked.
func drop(o map[string]any, is func(map[string]any) bool, path ...string) {
	list, ok, _ := unstructured.NestedFieldNoCopy(o, path...)
	items, _ := list.([]any)
	if !ok || items == nil {
		return
	}
	kept := []any{}
	for _, item := range items {
		if m, ok := item.(map[string]any); !ok || !is(m) {
			kept = append(kept, item)
		}
	}
	_ = unstructured.SetNestedSlice(o, kept, path...)
	if len(kept) == 0 {
		unstructured.RemoveNestedField(o, path...)
	}
}
