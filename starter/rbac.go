package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"thaw/blueprints/catalogue"
	"thaw/blueprints/catalogue/rbac"
)

func rbacCommand() *cobra.Command {
	var o rbac.Options
	cmd := &cobra.Command{
		Use:   "rbac",
		Short: "Print the Kubernetes roles that a worker needs",
		Long: `Rbac prints the roles of a worker and binds them to its service account: one for what
Thaw itself asks of a cluster, and one for each family of functions, with exactly what
its functions ask. It asks no cluster; give what it prints to kubectl.

With --namespace the worker may work in these namespaces only: a Role in each, and a
ClusterRole for what is in no namespace (volumes, snapshot contents, classes). Without,
it may work in all of them.

What a blueprint does with objects that it names itself (KubeOps, Wait, WaitV2, targets of
other kinds than Kanister's) no catalogue knows: add it with --object.`,
		Example: `  thaw rbac | kubectl apply -f -
  thaw rbac --namespace shop --service-account backups/thaw-worker
  thaw rbac --namespace shop --family kube,volume --object configmaps=get,create,patch
  thaw rbac --family manifest --kind deployments.apps,services,configmaps,secrets`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			objects, err := rbac.Generate(catalogue.Default(), o)
			if err != nil {
				return &usageError{err}
			}
			text, err := rbac.YAML(objects)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s", text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.Families, "family", nil, "families of functions that the worker runs (default: all)")
	f.StringSliceVarP(&o.Namespaces, "namespace", "n", nil, "namespaces where it runs them (default: all)")
	f.StringVar(&o.Account, "service-account", rbac.DefaultAccount, "service account of the worker, as NAMESPACE/NAME")
	f.StringVar(&o.Name, "name", "thaw", "what the names of the roles begin with")
	f.StringSliceVar(&o.With, "with", nil, "optional roles: "+strings.Join(rbac.Optional(), ", "))
	f.StringArrayVar(&o.Objects, "object", nil, "what blueprints do with objects that they name, as RESOURCE.GROUP=VERB,VERB")
	f.StringSliceVar(&o.Kinds, "kind", nil, "kinds of objects, as RESOURCE.GROUP, that manifests are captured and restored of (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("with", cobra.FixedCompletions(rbac.Optional(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}
