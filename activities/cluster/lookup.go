package cluster

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"thaw/blueprints/fault"
)

// Lookup resolves a host's name. Those of services (name.namespace.svc) and of
// pods behind a service (pod.name.namespace.svc) are asked of the API server: a
// worker outside the cluster has no other way, and one inside then needs no DNS
// to thaw. Others are the resolver's.
func (c *Cluster) Lookup(ctx context.Context, host string) ([]string, error) {
	name, rest, ok := strings.Cut(strings.TrimSuffix(host, "."), ".svc")
	labels := strings.Split(name, ".")
	if !ok || len(labels) < 2 || len(labels) > 3 || rest != "" && !strings.HasPrefix(rest, ".") {
		return net.DefaultResolver.LookupHost(ctx, host)
	}
	namespace, service, pod := labels[len(labels)-1], labels[len(labels)-2], ""
	if len(labels) == 3 {
		pod = labels[0]
	}
	key := strings.Join(labels, ".")
	var found []string
	ask := func(ctx context.Context) error {
		svc, err := c.Kube.CoreV1().Services(namespace).Get(ctx, service, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod == "" && svc.Spec.ClusterIP != corev1.ClusterIPNone && svc.Spec.ClusterIP != "" {
			found = svc.Spec.ClusterIPs
			return nil
		}
		slices, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
		if err != nil {
			return err
		}
		found = nil
		for i := range slices.Items {
			for _, e := range slices.Items[i].Endpoints {
				is := pod == "" || e.Hostname != nil && *e.Hostname == pod || e.TargetRef != nil && e.TargetRef.Name == pod
				if is && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
					found = append(found, e.Addresses...)
				}
			}
		}
		return nil
	}
	// A database is thawed while the API server is away, too: at the address
	// where it was frozen.
	quick, cancel := context.WithTimeout(ctx, askLimit)
	err := ask(quick)
	cancel()
	if known, ok := c.addresses.Load(key); ok && Unreachable(err) {
		return known.([]string), nil
	}
	if Unreachable(err) {
		err = Insist(ctx, nil, ask)
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", host, Classify(err))
	}
	if len(found) == 0 {
		return nil, fault.New(fault.Transient, "look up %s: no pod of the service is ready", host)
	}
	c.addresses.Store(key, found)
	return found, nil
}

// askLimit is how long an API server may take before an address that is known
// is taken for good.
const askLimit = 2 * time.Second
