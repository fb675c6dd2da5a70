package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"

	"thaw/blueprints/plan"
)

func setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Create Thaw's search attributes in a Temporal namespace",
		Long: `Setup creates, once for each namespace, the search attributes by which runs are found in
the Temporal UI. On Temporal Cloud create them with tcld instead: ThawFrozenSince is a
Datetime, ThawConsistent a Bool, the others Keywords. Without them runs work, and are
not found by what they do.`,
		Args: cobra.NoArgs,
		RunE: withTemporal(func(cmd *cobra.Command, c client.Client, _ []string) error {
			o, err := envconfig.LoadDefaultClientOptions()
			if err != nil {
				return fmt.Errorf("configuration of Temporal: %w", err)
			}
			ns := o.Namespace
			if ns == "" {
				ns = client.DefaultNamespace
			}
			have, err := c.OperatorService().ListSearchAttributes(cmd.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: ns})
			if err != nil {
				return fmt.Errorf("search attributes of namespace %q: %w", ns, err)
			}
			missing := map[string]enums.IndexedValueType{}
			for _, n := range plan.SearchAttributes {
				if _, ok := have.GetCustomAttributes()[n]; ok {
					continue
				}
				missing[n] = enums.INDEXED_VALUE_TYPE_KEYWORD
				switch n {
				case "ThawFrozenSince":
					missing[n] = enums.INDEXED_VALUE_TYPE_DATETIME
				case "ThawConsistent":
					missing[n] = enums.INDEXED_VALUE_TYPE_BOOL
				}
			}
			if len(missing) > 0 {
				if _, err := c.OperatorService().AddSearchAttributes(cmd.Context(), &operatorservice.AddSearchAttributesRequest{Namespace: ns, SearchAttributes: missing}); err != nil {
					return fmt.Errorf("add search attributes to namespace %q: %w", ns, err)
				}
			}
			_, _ = fmt.Fprintf(cmd.OutOrStdout(), "namespace %s: %d search attributes created, %d were there\n", ns, len(missing), len(plan.SearchAttributes)-len(missing))
			return nil
		}),
	}
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			version := "unknown"
			if info, ok := debug.ReadBuildInfo(); ok {
				version = info.Main.Version
			}
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), "thaw", version)
		},
	}
}
