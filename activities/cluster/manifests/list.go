// Package manifests lists the objects of an application, takes out of them what
// a cluster put in, changes them for another place, and puts them there. Start
// with List and Clean.
package manifests

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"thaw/activities/cluster"
)

// Resource is one that objects of a namespace can be of.
type Resource struct {
	schema.GroupVersionResource
	Kind string
}

// passing are resources whose objects come and go by themselves, or are views
// of others: none is part of an application.
var passing = map[string]bool{
	"events": true, "events.events.k8s.io": true, "endpoints": true, "endpointslices.discovery.k8s.io": true,
	"leases.coordination.k8s.io": true, "bindings": true, "controllerrevisions.apps": true, "replicationcontrollers": false,
	"pods.metrics.k8s.io": true, "localsubjectaccessreviews.authorization.k8s.io": true, "podtemplates": false,
	"resourceclaims.resource.k8s.io": true, "csistoragecapacities.storage.k8s.io": true,
	// Snapshots are data, not the application; restore points hold them.
	"volumesnapshots.snapshot.storage.k8s.io": true, "volumegroupsnapshots.groupsnapshot.storage.k8s.io": true,
}

// Resources lists what objects of a namespace can be of, in the versions that
// the cluster prefers. An API group whose server is away is named in warnings:
// its objects cannot be listed.
func Resources(ctx context.Context, c *cluster.Cluster) (all []Resource, warnings []string, err error) {
	var lists []*metav1.APIResourceList
	err = cluster.Insist(ctx, nil, func(context.Context) error {
		warnings = nil
		var err error
		lists, err = discovery.ServerPreferredNamespacedResources(c.Kube.Discovery())
		if groups, ok := discovery.GroupDiscoveryFailedErrorGroups(err); ok {
			for gv, cause := range groups {
				warnings = append(warnings, fmt.Sprintf("objects of %s are not listed: %v", gv, cause))
			}
			return nil
		}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("resources of the cluster: %w", err)
	}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for i := range l.APIResources {
			r := &l.APIResources[i]
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "get") {
				continue
			}
			gvr := gv.WithResource(r.Name)
			if passing[gvr.GroupResource().String()] {
				continue
			}
			all = append(all, Resource{gvr, r.Kind})
		}
	}
	slices.SortFunc(all, func(a, b Resource) int { return strings.Compare(a.String(), b.String()) })
	slices.Sort(warnings)
	return all, warnings, nil
}

// List lists the objects of a namespace that a label selector selects ("" for
// all). What the worker may not list is named in warnings.
func List(ctx context.Context, c *cluster.Cluster, namespace, selector string) (objects []unstructured.Unstructured, warnings []string, err error) {
	all, warnings, err := Resources(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range all {
		opts := metav1.ListOptions{LabelSelector: selector, Limit: 500}
		for {
			var page *unstructured.UnstructuredList
			err := cluster.Insist(ctx, nil, func(ctx context.Context) (err error) {
				page, err = c.Dynamic.Resource(r.GroupVersionResource).Namespace(namespace).List(ctx, opts)
				return err
			})
			switch {
			case apierrors.IsForbidden(err), apierrors.IsNotFound(err), apierrors.IsMethodNotSupported(err):
				warnings = append(warnings, fmt.Sprintf("%s are not listed: %v", r.GroupResource(), err))
			case err != nil:
				return nil, nil, fmt.Errorf("list %s of namespace %s: %w", r.GroupResource(), namespace, err)
			default:
				for i := range page.Items {
					o := page.Items[i]
					o.SetGroupVersionKind(r.GroupVersion().WithKind(r.Kind))
					objects = append(objects, o)
				}
			}
			if page == nil || page.GetContinue() == "" {
				break
			}
			opts.Continue = page.GetContinue()
		}
	}
	return objects, warnings, nil
}

// Owned reports whether another object of the list controls this one, and so
// makes it again by itself.
func Owned(o *unstructured.Unstructured, all []unstructured.Unstructured) bool {
	for _, ref := range o.GetOwnerReferences() {
		if ref.Controller == nil || !*ref.Controller {
			continue
		}
		if slices.ContainsFunc(all, func(p unstructured.Unstructured) bool { return p.GetUID() == ref.UID }) {
			return true
		}
	}
	return false
}
