package kube

import (
	"testing"

	"thaw/activities/cluster/podrun"
	"thaw/activities/function/functiontest"
)

type values = map[string]any

var pods = []string{"podOverride", "podAnnotations", "podLabels"}

// The arguments of Kanister's functions: names, defaults and outputs are those
// of its code and documentation (pkg/function, docs/functions.rst), decoded as
// weakly.
func TestArgumentsAreKanisters(t *testing.T) {
	all := Functions(nil)
	exec := values{"namespace": "shop", "pod": "db-0", "command": []any{"sh", "-c", "true"}}
	functiontest.Arguments(t, all, "KubeExec", functiontest.Declared{Required: exec, Optional: []string{"container"}, Open: true}, map[string]functiontest.Case[execArgs]{
		"a list":             {Want: execArgs{Namespace: "shop", Pod: "db-0", Command: []string{"sh", "-c", "true"}}},
		"one word as a list": {Args: values{"command": "true", "container": "c"}, Want: execArgs{Namespace: "shop", Pod: "db-0", Container: "c", Command: []string{"true"}}},
		"numbers as text":    {Args: values{"command": []any{"sleep", 5}, "pod": 7}, Want: execArgs{Namespace: "shop", Pod: "7", Command: []string{"sleep", "5"}}},
	})
	execAll := values{"namespace": "shop", "pods": "a b", "containers": "c", "command": []any{"true"}}
	functiontest.Arguments(t, all, "KubeExecAll", functiontest.Declared{Required: execAll, Open: true}, map[string]functiontest.Case[execAllArgs]{
		"pods as one text": {Want: execAllArgs{Namespace: "shop", Pods: "a b", Containers: "c", Command: []string{"true"}}},
	})
	task := values{"image": "i", "command": []any{"true"}}
	functiontest.Arguments(t, all, "KubeTask", functiontest.Declared{Required: task, Optional: append([]string{"namespace"}, pods...), Open: true}, map[string]functiontest.Case[taskArgs]{
		"no namespace": {Want: taskArgs{Image: "i", Command: []string{"true"}}},
		"parts of the pod": {
			Args: values{"namespace": "shop", "podOverride": values{"hostNetwork": true}, "podLabels": values{"n": 1}, "podAnnotations": values{"a": "b"}},
			Want: taskArgs{Namespace: "shop", Image: "i", Command: []string{"true"}, Args: podrun.Args{
				PodOverride: values{"hostNetwork": true}, PodLabels: map[string]string{"n": "1"}, PodAnnotations: map[string]string{"a": "b"},
			}},
		},
	})
	multi := values{"backgroundImage": "b", "backgroundCommand": []any{"x"}, "outputImage": "o", "outputCommand": []any{"y"}}
	plain := multiArgs{BackgroundImage: "b", BackgroundCommand: []string{"x"}, OutputImage: "o", OutputCommand: []string{"y"}, SharedVolumeDir: "/tmp/"}
	given := plain
	given.Namespace, given.InitImage, given.InitCommand, given.SharedVolumeMedium, given.SharedVolumeSizeLimit, given.SharedVolumeDir = "shop", "i", []string{"mkfifo", "/s/p"}, "Memory", "1Gi", "/s"
	functiontest.Arguments(t, all, "MultiContainerRun", functiontest.Declared{
		Required: multi, Optional: append([]string{"namespace", "initImage", "initCommand", "sharedVolumeMedium", "sharedVolumeSizeLimit", "sharedVolumeDir"}, pods...),
		Defaults: map[string]string{"sharedVolumeDir": "/tmp/"}, Open: true,
	}, map[string]functiontest.Case[multiArgs]{
		"its defaults": {Want: plain},
		"all of them":  {Args: values{"namespace": "shop", "initImage": "i", "initCommand": []any{"mkfifo", "/s/p"}, "sharedVolumeMedium": "Memory", "sharedVolumeSizeLimit": "1Gi", "sharedVolumeDir": "/s"}, Want: given},
	})
	prepare := values{"namespace": "shop", "image": "i", "command": []any{"true"}}
	functiontest.Arguments(t, all, "PrepareData", functiontest.Declared{
		Required: prepare, Optional: append([]string{"volumes", "serviceaccount", "failOnError"}, pods...), Defaults: map[string]string{"failOnError": "false"}, Open: true,
	}, map[string]functiontest.Case[prepareArgs]{
		"no volumes, and failures for done": {Want: prepareArgs{Namespace: "shop", Image: "i", Command: []string{"true"}}},
		"a text as a boolean": {
			Args: values{"failOnError": "true", "serviceaccount": "s", "volumes": values{"data": "/d"}},
			Want: prepareArgs{Namespace: "shop", Image: "i", Command: []string{"true"}, FailOnError: true, ServiceAccount: "s", Volumes: map[string]string{"data": "/d"}},
		},
		"a number as a boolean": {Args: values{"failOnError": 1}, Want: prepareArgs{Namespace: "shop", Image: "i", Command: []string{"true"}, FailOnError: true}},
	})
	scale := values{"replicas": 1}
	functiontest.Arguments(t, all, "ScaleWorkload", functiontest.Declared{
		Required: scale, Optional: []string{"namespace", "name", "kind", "waitForReady"}, Defaults: map[string]string{"waitForReady": "true"}, Outputs: []string{"originalReplicaCount"},
	}, map[string]functiontest.Case[scaleArgs]{
		"an integer":         {Want: scaleArgs{Replicas: 1, WaitForReady: true}},
		"a text":             {Args: values{"replicas": "3"}, Want: scaleArgs{Replicas: 3, WaitForReady: true}},
		"nothing":            {Args: values{"replicas": 0}, Want: scaleArgs{WaitForReady: true}},
		"an int64":           {Args: values{"replicas": int64(2)}, Want: scaleArgs{Replicas: 2, WaitForReady: true}},
		"what JSON makes":    {Args: values{"replicas": float64(2)}, Want: scaleArgs{Replicas: 2, WaitForReady: true}},
		"a kind in any case": {Args: values{"kind": "StatefulSet", "name": "db", "namespace": "shop", "waitForReady": "false"}, Want: scaleArgs{Replicas: 1, Kind: "StatefulSet", Name: "db", Namespace: "shop"}},
	})
	functiontest.Refused(t, all, "ScaleWorkload", scale, map[string]values{
		`argument "replicas" is no integer`:                                                     {"replicas": "two"},
		`argument "kind" is "daemonset"; want one of deployment, statefulset, deploymentconfig`: {"kind": "daemonset"},
		`argument "waitForReady" is no boolean`:                                                 {"waitForReady": "perhaps"},
	})
	functiontest.Refused(t, all, "ScaleWorkload", scale, map[string]values{`arguments of ScaleWorkload: argument "replicas" is no integer`: {"replicas": 1.5}})
	functiontest.Refused(t, all, "KubeExec", exec, map[string]values{`argument "command": command[1] is not what it must be`: {"command": []any{"sh", values{"a": "b"}}}})
	ops := values{"operation": "create"}
	functiontest.Arguments(t, all, "KubeOps", functiontest.Declared{
		Required: ops, Optional: []string{"namespace", "spec", "objectReference"}, Defaults: map[string]string{"namespace": "default"},
		Outputs: []string{"apiVersion", "group", "resource", "kind", "name", "namespace"},
	}, map[string]functiontest.Case[opsArgs]{
		"the namespace default": {Args: values{"spec": "kind: A"}, Want: opsArgs{Operation: "create", Namespace: "default", Spec: "kind: A"}},
		"a reference": {
			Args: values{"operation": "delete", "namespace": "shop", "objectReference": values{"name": "a", "apiVersion": "v1", "resource": "pods"}},
			Want: opsArgs{Operation: "delete", Namespace: "shop", ObjectReference: values{"name": "a", "apiVersion": "v1", "resource": "pods"}},
		},
	})
	functiontest.Refused(t, all, "KubeOps", ops, map[string]values{
		`argument "operation" is "replace"; want one of create, patch, delete`: {"operation": "replace"},
		`argument "objectReference" is no mapping`:                             {"objectReference": "pods/a"},
	})
}
