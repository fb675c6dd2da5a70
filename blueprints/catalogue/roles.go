package catalogue

// Role is what Thaw asks of a cluster's API beside the functions of its
// families, whose rules are theirs (Function.Rules).
type Role struct {
	Name    string
	Summary string
	// Optional: Thaw does without it, and says what it then cannot do.
	Optional bool
	Rules    []Rule
}

// Roles are all of them. What a line of it is for stands where it is asked:
// activities/{target,application,restoring,plan}.go, package secret, and
// cluster.Lookup, cluster.Workload, binding and podrun.
func Roles() []Role {
	return []Role{
		{
			Name:    "engine",
			Summary: "What every worker asks: targets, their pods, secrets and config maps of runs, addresses of services, blueprints and bindings.",
			Rules: []Rule{
				// Targets of Kanister's kinds, and workloads that a restore scales
				// down. A namespace can be got with a role in it.
				{Group: "apps", Resources: []string{"statefulsets", "deployments"}, Verbs: []string{"get"}},
				{Resources: []string{"persistentvolumeclaims", "namespaces"}, Verbs: []string{"get"}},
				// The pods of a workload, of a Deployment by its ReplicaSet; and
				// those that dead workers left.
				{Resources: []string{"pods"}, Verbs: []string{"list"}},
				{Group: "apps", Resources: []string{"replicasets"}, Verbs: []string{"list"}},
				// What a run's input, a phase's objects and bindings name.
				{Resources: []string{"secrets", "configmaps"}, Verbs: []string{"get"}},
				// Addresses of databases: name.namespace.svc.
				{Resources: []string{"services"}, Verbs: []string{"get"}},
				{Group: "discovery.k8s.io", Resources: []string{"endpointslices"}, Verbs: []string{"list"}},
				// Blueprints in the namespace of the target and of the worker;
				// bindings of all namespaces.
				{Group: "thaw.dev", Resources: []string{"blueprints"}, Verbs: []string{"get"}},
				{Group: "cr.kanister.io", Resources: []string{"blueprints"}, Verbs: []string{"get"}},
				{Group: "thaw.dev", Resources: []string{"blueprintbindings"}, Verbs: []string{"list"}, Cluster: true},
				{Group: "config.kio.kasten.io", Resources: []string{"blueprintbindings"}, Verbs: []string{"list"}, Cluster: true},
			},
		},
		{
			Name: "actionsets", Optional: true,
			Summary: "Kanister's ActionSets, where the worker serves them: read, and their status and finalizers written; events of them.",
			Rules: []Rule{
				{Group: "cr.kanister.io", Resources: []string{"actionsets"}, Verbs: []string{"get", "list", "watch", "update"}},
				{Group: "cr.kanister.io", Resources: []string{"blueprints"}, Verbs: []string{"get", "list", "watch"}},
				{Group: "thaw.dev", Resources: []string{"blueprints"}, Verbs: []string{"get"}},
				{Resources: []string{"events"}, Verbs: []string{"create"}},
			},
		},
		{
			Name: "rotated-logs", Optional: true,
			Summary: "Output of a pod that the kubelet rotated away while no stream of its log was open. Without it such a phase fails. Getting nodes/proxy is as much as running commands in any pod of the nodes: weigh it.",
			Rules:   []Rule{{Resources: []string{"nodes/proxy"}, Verbs: []string{"get"}, Cluster: true}},
		},
		{
			Name: "openshift", Optional: true,
			Summary: "DeploymentConfigs of OpenShift, as targets and for ScaleWorkload and WaitWorkloads.",
			Rules: []Rule{
				{Group: "apps.openshift.io", Resources: []string{"deploymentconfigs"}, Verbs: []string{"get", "list", "watch"}},
				{Group: "apps.openshift.io", Resources: []string{"deploymentconfigs/scale"}, Verbs: []string{"get", "patch"}},
				{Resources: []string{"replicationcontrollers"}, Verbs: []string{"list"}},
			},
		},
		{
			Name: "restore-roles", Optional: true,
			Summary: "Roles and RoleBindings among the manifests of an application that give more than this worker has. Without it such a restore fails. Who may do this may do everything in the namespace.",
			Rules: []Rule{
				{Group: "rbac.authorization.k8s.io", Resources: []string{"roles"}, Verbs: []string{"escalate", "bind"}},
				{Group: "rbac.authorization.k8s.io", Resources: []string{"clusterroles"}, Verbs: []string{"bind"}, Cluster: true},
			},
		},
	}
}

// RoleOf returns the role of that name.
func RoleOf(name string) (Role, bool) {
	for _, r := range Roles() {
		if r.Name == name {
			return r, true
		}
	}
	return Role{}, false
}
