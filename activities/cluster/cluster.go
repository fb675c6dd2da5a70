// Package cluster is one Kubernetes cluster as a worker sees it: its clients,
// what an error of its API means, waiting by watches, and what templates see
// of an object. The families that work on a cluster share it. Start with Open.
package cluster

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	snapshots "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"thaw/blueprints/fault"
)

// Config says which cluster a worker works on. A worker in a pod needs none.
type Config struct {
	// Kubeconfig is the path of a kubeconfig file. Default: the pod's own
	// service account; outside a pod the worker has no cluster.
	Kubeconfig string `yaml:"kubeconfig"`
	// Context of the kubeconfig. Default: its current one.
	Context string `yaml:"context"`
	// Namespace of the pods that a blueprint puts into none. Default: the
	// worker's own in a pod, else that of the context, else "default".
	Namespace string `yaml:"namespace"`
}

// Cluster is a cluster and the worker's clients for it. A nil *Cluster is that
// of a worker without one: Need says so.
type Cluster struct {
	Rest      *rest.Config
	Kube      kubernetes.Interface
	Dynamic   dynamic.Interface
	Snapshots snapshots.Interface
	// Namespace of the pods that a blueprint puts into none.
	Namespace string

	mapper meta.ResettableRESTMapper
	// addresses that Lookup found, by name.
	addresses sync.Map
}

// agent is what API servers write into their audit logs.
const agent = "thaw-worker"

// inPod is where Kubernetes mounts the namespace of a pod's service account.
const inPod = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// Open returns the cluster of that configuration, or nil where it names none
// and the worker is not in a pod. It asks the API server nothing: a worker
// starts without one.
func Open(cfg Config) (*Cluster, error) {
	rc, namespace, err := load(cfg)
	if err != nil || rc == nil {
		return nil, err
	}
	if cfg.Namespace != "" {
		namespace = cfg.Namespace
	}
	return New(rc, namespace)
}

func load(cfg Config) (*rest.Config, string, error) {
	if cfg.Kubeconfig == "" {
		rc, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, "", nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("kubernetes: the pod's service account: %w", err)
		}
		namespace, err := os.ReadFile(inPod)
		if err != nil {
			return nil, "", fmt.Errorf("kubernetes: the pod's namespace: %w", err)
		}
		return rc, strings.TrimSpace(string(namespace)), nil
	}
	cc := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: cfg.Kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: cfg.Context})
	rc, err := cc.ClientConfig()
	if err != nil {
		return nil, "", fmt.Errorf("kubernetes: kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	namespace, _, err := cc.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("kubernetes: kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	return rc, namespace, nil
}

// New returns the cluster behind that client configuration.
func New(rc *rest.Config, namespace string) (*Cluster, error) {
	rc = rest.CopyConfig(rc)
	rc.UserAgent = agent
	rc.QPS = -1 // the API server's own fairness decides; a freeze waits for no client-side queue
	c := &Cluster{Rest: rc, Namespace: namespace}
	disco, err := discovery.NewDiscoveryClientForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	if c.Kube, err = kubernetes.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	if c.Dynamic, err = dynamic.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	if c.Snapshots, err = snapshots.NewForConfig(rc); err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return c, nil
}

// Need is an error for a function that needs a cluster, on a worker that has
// none.
func (c *Cluster) Need() error {
	if c != nil {
		return nil
	}
	return fault.New(fault.User, "this worker has no Kubernetes cluster; run it in a pod, or set kubernetes.kubeconfig in its configuration")
}
