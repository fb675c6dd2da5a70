package blueprintcmd

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/library"
	"thaw/blueprints/schema"
)

type listed struct {
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	Actions     []string `json:"actions"`
}

func listCommand() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the blueprints that come with Thaw",
		Example: `  thaw blueprint list
  thaw blueprint list -o json | jq -r '.[].name'`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			entries, err := library.List()
			if err != nil {
				return err
			}
			all := []listed{}
			for _, e := range entries {
				text, err := library.Load(e.Name)
				if err != nil {
					return err
				}
				bp, faults := blueprints.Parse(e.Path, text)
				if err := faults.Err(); err != nil {
					return fmt.Errorf("library: %w", err)
				}
				all = append(all, listed{e.Name, firstSentence(bp.Description), bp.ActionNames()})
			}
			if out.name != "table" {
				return out.data(cmd.OutOrStdout(), all)
			}
			t := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(t, "NAME\tACTIONS\tDESCRIPTION")
			for _, l := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\n", l.Name, strings.Join(l.Actions, ","), l.Description)
			}
			return t.Flush()
		},
	}
	out.flag(cmd, "table", "table", "json", "yaml")
	return cmd
}

func firstSentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if i := strings.Index(s, ". "); i >= 0 {
		return s[:i+1]
	}
	return s
}

func showCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Print a blueprint of the library",
		Example: `  thaw blueprint show sqlite
  thaw blueprint show sqlite > shop.yaml   # to write one's own from it`,
		Args:         cobra.ExactArgs(1),
		SilenceUsage: true,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			entries, _ := library.List()
			for _, e := range entries {
				names = append(names, e.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := library.Load(args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of blueprints, for editors",
		Long: `Prints the JSON Schema (2020-12) of blueprint files, with every function's arguments. An
editor with a YAML language server completes, explains and underlines by it:

  # yaml-language-server: $schema=./blueprint.schema.json     (first line of a blueprint)`,
		Example:      `  thaw blueprint schema > blueprint.schema.json`,
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := schema.JSON(catalogue.Default())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
}
