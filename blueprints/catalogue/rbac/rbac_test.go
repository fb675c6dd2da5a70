package rbac_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/catalogue/rbac"
)

var update = flag.Bool("update", false, "write deploy/rbac again")

// deploy/rbac holds what `thaw rbac` prints: `make golden`.
func TestDeployedRolesAreThoseOfTheCatalogue(t *testing.T) {
	for file, c := range map[string]struct {
		command string
		options rbac.Options
	}{
		"cluster.yaml":   {"thaw rbac", rbac.Options{}},
		"namespace.yaml": {"thaw rbac --namespace shop --service-account thaw/thaw-worker", rbac.Options{Namespaces: []string{"shop"}}},
	} {
		t.Run(file, func(t *testing.T) {
			objects, err := rbac.Generate(catalogue.Default(), c.options)
			require.NoError(t, err)
			want, err := rbac.YAML(objects)
			require.NoError(t, err)
			want = append([]byte("# Printed by: "+c.command+"\n"), want...)
			path := filepath.Join("..", "..", "..", "deploy", "rbac", file)
			if *update {
				require.NoError(t, os.WriteFile(path, want, 0o644))
			}
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), string(got), "run: make golden")
		})
	}
}

// small is a catalogue of two families.
func small() catalogue.Catalogue {
	rule := func(group, resource string, wide bool, verbs ...string) catalogue.Rule {
		return catalogue.Rule{Group: group, Resources: []string{resource}, Verbs: verbs, Cluster: wide}
	}
	return catalogue.New([]catalogue.Function{
		{Name: "A", Family: "one", Rules: []catalogue.Rule{rule("", "pods", false, "list"), rule("", "nodes", true, "get")}},
		{Name: "B", Family: "one", Rules: []catalogue.Rule{rule("", "pods", false, "delete", "get"), rule("apps", "deployments", false, "get")}},
		{Name: "Make", Family: "one", Rules: []catalogue.Rule{rule("", "namespaces", true, "create")}},
		{Name: "All", Family: "two", Rules: []catalogue.Rule{rule("*", "*", false, "list")}},
		{Name: "None", Family: "three"},
		{Name: "Later", Family: "four", Planned: true, Rules: []catalogue.Rule{rule("", "pods", false, "watch")}},
	})
}

// found are the roles of what was generated: kind, namespace and name to rules.
func found(t *testing.T, o rbac.Options) map[string][]rbac.Rule {
	objects, err := rbac.Generate(small(), o)
	require.NoError(t, err)
	roles, bound := map[string][]rbac.Rule{}, map[string]bool{}
	key := func(kind string, m rbac.Metadata) string { return kind + " " + m.Namespace + "/" + m.Name }
	for _, x := range objects {
		if x.RoleRef == nil {
			roles[key(x.Kind, x.Metadata)] = x.Rules
			continue
		}
		require.Len(t, x.Subjects, 1)
		bound[key(x.RoleRef.Kind, x.Metadata)] = true
	}
	for name := range roles {
		require.True(t, bound[name], "%s is bound", name)
	}
	require.Len(t, bound, len(roles))
	return roles
}

func TestRules(t *testing.T) {
	pods := rbac.Rule{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "delete"}}
	nodes := rbac.Rule{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}}
	making := rbac.Rule{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"create"}}
	apps := rbac.Rule{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}}
	all := rbac.Rule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list"}}

	t.Run("a family everywhere is one ClusterRole, its rules merged", func(t *testing.T) {
		got := found(t, rbac.Options{Families: []string{"one"}})
		require.Equal(t, []rbac.Rule{making, nodes, pods, apps}, got["ClusterRole /thaw-one"])
		require.Contains(t, got, "ClusterRole /thaw-engine")
		require.Len(t, got, 2)
	})
	t.Run("in namespaces it is a Role in each, and a ClusterRole of what is in none", func(t *testing.T) {
		got := found(t, rbac.Options{Families: []string{"one", "two"}, Namespaces: []string{"a", "b"}, Name: "shop"})
		for _, ns := range []string{"a", "b"} {
			require.Equal(t, []rbac.Rule{pods, apps}, got["Role "+ns+"/shop-one"])
			require.Equal(t, []rbac.Rule{all}, got["Role "+ns+"/shop-two"])
			require.Contains(t, got, "Role "+ns+"/shop-engine")
		}
		require.Equal(t, []rbac.Rule{nodes}, got["ClusterRole /shop-one"], "whoever may work in two namespaces makes no third")
		require.NotContains(t, got, "ClusterRole /shop-two")
	})
	t.Run("all families are those that a worker runs", func(t *testing.T) {
		got := found(t, rbac.Options{})
		require.Len(t, got, 3)
		require.NotContains(t, got, "ClusterRole /thaw-three", "it asks nothing")
		require.NotContains(t, got, "ClusterRole /thaw-four", "it is planned")
	})
	t.Run("everything is narrowed to kinds", func(t *testing.T) {
		got := found(t, rbac.Options{Families: []string{"two"}, Kinds: []string{"secrets", "deployments.apps", "configmaps"}})
		require.Equal(t, []rbac.Rule{
			{APIGroups: []string{""}, Resources: []string{"configmaps", "secrets"}, Verbs: []string{"list"}},
			{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"list"}},
		}, got["ClusterRole /thaw-two"])
	})
	t.Run("objects and optional roles are added", func(t *testing.T) {
		got := found(t, rbac.Options{Families: []string{"three"}, With: []string{"rotated-logs"}, Objects: []string{"configmaps=get,create", "things/status.example.com=patch"}})
		require.Equal(t, []rbac.Rule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create"}},
			{APIGroups: []string{"example.com"}, Resources: []string{"things/status"}, Verbs: []string{"patch"}},
		}, got["ClusterRole /thaw-objects"])
		require.Contains(t, got, "ClusterRole /thaw-rotated-logs")
	})
}

func TestAllThatIsWrongIsSaid(t *testing.T) {
	_, err := rbac.Generate(small(), rbac.Options{
		Families: []string{"nine", "two"}, Namespaces: []string{"Shop"}, Account: "worker", With: []string{"engine"},
		Objects: []string{"configmaps"}, Kinds: []string{"ConfigMaps"},
	})
	for _, says := range []string{
		`no family "nine"; want some of one, three, two`, `namespace "Shop"`, `service account "worker": want namespace/name`,
		`no optional role "engine"; want one of actionsets, rotated-logs, openshift, restore-roles`, `object "configmaps": want`, `kind "ConfigMaps": want`,
	} {
		require.ErrorContains(t, err, says)
	}
}

// Nobody gets more by it than a worker needs: no verb on everything, no
// impersonation, no secrets listed but by those who copy them.
func TestNoRoleIsAWildcardOfVerbs(t *testing.T) {
	objects, err := rbac.Generate(catalogue.Default(), rbac.Options{With: rbac.Optional()})
	require.NoError(t, err)
	for _, o := range objects {
		for _, r := range o.Rules {
			require.NotContains(t, r.Verbs, "*")
			require.NotContains(t, r.Verbs, "impersonate")
			if o.Metadata.Name != "thaw-manifest" {
				require.NotContains(t, r.Resources, "*", o.Metadata.Name)
				require.NotContains(t, r.APIGroups, "*", o.Metadata.Name)
			}
		}
	}
}
