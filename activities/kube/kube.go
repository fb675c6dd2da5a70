// Package kube is the family of functions that run commands in a cluster's
// pods and change its objects: Kanister's KubeExec, KubeTask, KubeOps,
// ScaleWorkload and their like, with its names, arguments and outputs. Start
// with exec.go and task.go; pods that are made for a command are podrun's.
package kube

import (
	"time"

	"thaw/activities/cluster"
	"thaw/activities/function"
)

const family = "kube"

// Functions of this family, on a cluster that may be nil.
func Functions(c *cluster.Cluster) []function.Function {
	return []function.Function{
		kubeExec(c), kubeExecAll(c), kubeTask(c), multiContainerRun(c), prepareData(c), scaleWorkload(c), kubeOps(c),
	}
}

const (
	// podCall is how long a command may take; Kanister has no such limit.
	podCall   = 12 * time.Hour
	shortCall = 10 * time.Minute
)
