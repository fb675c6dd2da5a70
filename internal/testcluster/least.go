package testcluster

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"

	"thaw/activities/cluster"
	"thaw/blueprints/catalogue"
)

// Least is the cluster as a worker sees it whose service account may do what
// the rules say, in some namespaces, and nothing else. What it asks is noted.
func Least(t testing.TB, c *cluster.Cluster, rules []catalogue.Rule, namespaces ...string) (*cluster.Cluster, *Asked) {
	t.Helper()
	name := "thaw-test-" + rand.String(10)
	subject := []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: "default"}}
	var wide, narrow []rbacv1.PolicyRule
	for _, r := range rules {
		p := rbacv1.PolicyRule{APIGroups: []string{r.Group}, Resources: r.Resources, Verbs: r.Verbs}
		if r.Cluster {
			wide = append(wide, p)
		} else {
			narrow = append(narrow, p)
		}
	}
	api, meta := c.Kube.RbacV1(), metav1.ObjectMeta{Name: name}
	_, err := api.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: wide}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = api.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = api.ClusterRoleBindings().Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = api.ClusterRoles().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	for _, ns := range namespaces {
		_, err := api.Roles(ns).Create(t.Context(), &rbacv1.Role{ObjectMeta: meta, Rules: narrow}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = api.RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subject, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	user := "system:serviceaccount:default:" + name
	effective(t, c, user, "", wide)
	for _, ns := range namespaces {
		effective(t, c, user, ns, narrow)
	}
	rc := rest.CopyConfig(c.Rest)
	rc.Impersonate = rest.ImpersonationConfig{
		UserName: user,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"},
	}
	asked := &Asked{verbs: map[string]bool{}}
	rc.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &recorder{rt, asked} })
	own, err := cluster.New(rc, c.Namespace)
	require.NoError(t, err)
	return own, asked
}

// effective waits until the API server knows a role that was just made.
func effective(t testing.TB, c *cluster.Cluster, user, namespace string, rules []rbacv1.PolicyRule) {
	t.Helper()
	if len(rules) == 0 {
		return
	}
	resource, sub, _ := strings.Cut(rules[0].Resources[0], "/")
	review := &authv1.SubjectAccessReview{Spec: authv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authv1.ResourceAttributes{
		Namespace: namespace, Group: rules[0].APIGroups[0], Resource: resource, Subresource: sub, Verb: rules[0].Verbs[0],
	}}}
	require.Eventually(t, func() bool {
		r, err := c.Kube.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		return err == nil && r.Status.Allowed
	}, Wait, Tick)
}

// Asked is what was asked of an API server.
type Asked struct {
	mu     sync.Mutex
	verbs  map[string]bool // "verb group/resource", "verb group/resource/subresource"
	denied []string
}

// Denied lists what was refused.
func (a *Asked) Denied() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.denied)
}

// Allow forgets refusals that name any of these: they are met, and got over.
func (a *Asked) Allow(texts ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denied = slices.DeleteFunc(a.denied, func(d string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(d, text) })
	})
}

// Verbs lists what was asked: "verb group/resource".
func (a *Asked) Verbs() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.verbs))
}

// Everything of the rules is used, and nothing was refused. Exceptions are
// "verb group/resource" with the reason why the cases may do without.
func Everything(t testing.TB, what string, rules []catalogue.Rule, exceptions map[string]string, all ...*Asked) {
	t.Helper()
	used := map[string]bool{}
	for _, a := range all {
		assert.Empty(t, a.Denied(), "%s: refused", what)
		a.mu.Lock()
		for v := range a.verbs {
			used[v] = true
			verb, _, _ := strings.Cut(v, " ")
			used[verb+" */*"] = true
		}
		a.mu.Unlock()
	}
	for _, r := range rules {
		for _, resource := range r.Resources {
			for _, verb := range r.Verbs {
				name := fmt.Sprintf("%s %s/%s", verb, r.Group, resource)
				if exceptions[name] == "" {
					assert.True(t, used[name], "%s declares %q, and never asked it", what, name)
				}
			}
		}
	}
}

type recorder struct {
	next  http.RoundTripper
	asked *Asked
}

// RoundTrip implements http.RoundTripper.
func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	verbs := request(req)
	resp, err := r.next.RoundTrip(req)
	r.asked.mu.Lock()
	defer r.asked.mu.Unlock()
	for _, v := range verbs {
		r.asked.verbs[v] = true
		if err == nil && resp.StatusCode == http.StatusForbidden {
			r.asked.denied = append(r.asked.denied, v+": "+req.URL.Path)
		}
	}
	return resp, err
}

// request tells what is asked, as the API server reads it of the path.
func request(req *http.Request) (asked []string) {
	parts := strings.Split(strings.Trim(req.URL.Path, "/"), "/")
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = parts[1], parts[3:]
	default:
		return nil // discovery
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource := parts[0]
	named := len(parts) > 1
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	var verbs []string
	switch req.Method {
	case http.MethodGet:
		switch {
		case named:
			verbs = []string{"get"}
		case req.URL.Query().Get("watch") != "":
			verbs = []string{"watch"}
		default:
			verbs = []string{"list"}
		}
	case http.MethodPost:
		verbs = []string{"create"}
	case http.MethodPut:
		verbs = []string{"update"}
	case http.MethodPatch:
		verbs = []string{"patch"}
		if req.Header.Get("Content-Type") == string(types.ApplyYAMLPatchType) {
			verbs = append(verbs, "create") // the server asks for it where the object is not there
		}
	case http.MethodDelete:
		verbs = []string{"delete"}
		if !named {
			verbs = []string{"deletecollection"}
		}
	}
	for _, v := range verbs {
		asked = append(asked, fmt.Sprintf("%s %s/%s", v, group, resource))
	}
	return asked
}
