package blueprintcmd

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/templates"
)

func explainCommand() *cobra.Command {
	var out format
	cmd := &cobra.Command{
		Use:   "explain [FUNCTION]",
		Short: "Explain the functions that a phase can call",
		Long: `Without a name, lists all functions. With one, prints its arguments, its outputs and its
contract: whether it may run twice, whether it captures data, how long it may take.`,
		Example: `  thaw blueprint explain
  thaw blueprint explain KubeExec
  thaw blueprint explain KubeExec -o yaml`,
		Args:         cobra.MaximumNArgs(1),
		SilenceUsage: true,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return blueprints.FunctionNames(catalogue.Default()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			cat, w := catalogue.Default(), cmd.OutOrStdout()
			if len(args) == 0 {
				if out.name != "table" {
					return out.data(w, cat.Functions)
				}
				return functions(w, cat)
			}
			f, ok := cat.Lookup(args[0])
			if !ok {
				return usage("there is no function %q%s; list them with: thaw blueprint explain", args[0], templates.Suggest(args[0], blueprints.FunctionNames(cat)))
			}
			if out.name != "table" {
				return out.data(w, f)
			}
			return explain(w, f)
		},
	}
	out.flag(cmd, "table", "table", "json", "yaml")
	return cmd
}

func functions(w io.Writer, cat catalogue.Catalogue) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(t, "FUNCTION\tFAMILY\tRUNS\tSUMMARY")
	for _, f := range cat.Functions {
		runs := "yes"
		if f.Planned {
			runs = "not yet"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Name, f.Family, runs, f.Summary)
	}
	return t.Flush()
}

func explain(w io.Writer, f *catalogue.Function) error {
	fmt.Fprintf(w, "%s (%s)\n  %s\n", f.Name, f.Family, f.Summary)
	if f.Planned {
		fmt.Fprint(w, "\n  Part of the language; no worker of this release runs it.\n")
	}
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	if len(f.Args) > 0 {
		fmt.Fprint(t, "\nArguments:\n")
	}
	for _, a := range f.Args {
		fmt.Fprintf(t, "  %s\t%s\t%s\n", a.Name, a.Type, about(a))
	}
	if len(f.Outputs) > 0 || f.OpenOutputs {
		fmt.Fprint(t, "\nOutputs:\n")
	}
	for _, o := range f.Outputs {
		fmt.Fprintf(t, "  %s\t\t%s\n", o.Name, o.Description)
	}
	if f.OpenOutputs {
		fmt.Fprint(t, "  …\t\tWhat the command prints with `kando output KEY VALUE`\n")
	}
	fmt.Fprint(t, "\nContract:\n")
	for _, c := range contract(f) {
		fmt.Fprintf(t, "  %s\n", c)
	}
	return t.Flush()
}

// about is an argument's description with all that is known of it.
func about(a catalogue.Arg) string {
	s := a.Description
	if a.Required {
		s += " (required)"
	}
	if a.Default != "" {
		s += " (default " + a.Default + ")"
	}
	if len(a.Enum) > 0 {
		s += " (" + strings.Join(a.Enum, " | ") + ")"
	}
	if len(a.Aliases) > 0 {
		s += " (also " + strings.Join(a.Aliases, ", ") + ")"
	}
	if a.Raw {
		s += " (conditions in it are templates over the object, rendered by the function)"
	}
	return s
}

func contract(f *catalogue.Function) []string {
	var out []string
	switch {
	case f.ReadOnly:
		out = append(out, "It changes nothing, so it is retried freely.")
	case f.Idempotent:
		out = append(out, "It may run again when the outcome of an attempt is unknown.")
	default:
		out = append(out, "It is not retried when the outcome of an attempt is unknown, unless the phase says idempotent: true.")
	}
	if f.Cut {
		out = append(out, "It captures data: inside a freeze, this is what the freeze makes consistent.")
	}
	if len(f.Proof) > 0 {
		out = append(out, "As do of a freeze it proves it by "+strings.Join(f.Proof, ", ")+", which undo must report alike.")
	}
	if f.Person {
		out = append(out, "It waits for a person, so it may not stand inside a freeze.")
	}
	return append(out, fmt.Sprintf("One attempt takes %s at most, unless the phase says timeout.", brief(f.Timeout)))
}

// brief is a duration without zero parts: 10m, not 10m0s.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
