// Package blueprintcmd is `thaw blueprint`: what an author of blueprints does
// without any server. It reads files and the catalogue, and calls nothing.
// Start with New.
package blueprintcmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints/fault"
)

// New returns the command. It writes to out, or to the standard output.
func New(out ...io.Writer) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "blueprint",
		Aliases: []string{"bp", "blueprints"},
		Short:   "Write, check and try blueprints, without a server",
		Long: `A blueprint says how one kind of database is frozen, captured, thawed, exported and
restored. These commands need no server and no cluster: they check a blueprint as a run
would check it, and render it as a run would render it, with a made-up target.

  thaw blueprint list                     # the blueprints that come with Thaw
  thaw blueprint show sqlite > shop.yaml  # one to start from
  thaw blueprint explain                  # the functions that a phase can call
  thaw blueprint lint shop.yaml           # every mistake, with its place
  thaw blueprint render shop.yaml --action backup`,
	}
	if len(out) > 0 && out[0] != nil {
		cmd.SetOut(out[0])
	}
	cmd.AddCommand(lintCommand(), renderCommand(), listCommand(), showCommand(), explainCommand(), schemaCommand())
	return cmd
}

func usage(format string, args ...any) error { return fault.New(fault.User, format, args...) }

// format is the flag -o.
type format struct {
	name  string
	known []string
}

func (f *format) flag(cmd *cobra.Command, otherwise string, known ...string) {
	f.known = known
	cmd.Flags().StringVarP(&f.name, "output", "o", otherwise, "how to print: "+join(known))
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
}

func (f *format) check() error {
	for _, k := range f.known {
		if f.name == k {
			return nil
		}
	}
	return usage("--output %q: want %s", f.name, join(f.known))
}

func join(names []string) string {
	var b bytes.Buffer
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(n)
	}
	return b.String()
}

// data writes a value as JSON or YAML, with the same names and order in both.
func (f *format) data(w io.Writer, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write as %s: %w", f.name, err)
	}
	if f.name == "yaml" {
		var n yaml.Node
		if err := yaml.Unmarshal(b.Bytes(), &n); err != nil {
			return fmt.Errorf("write as yaml: %w", err)
		}
		blockStyle(&n)
		b.Reset()
		y := yaml.NewEncoder(&b)
		y.SetIndent(2)
		if err := y.Encode(&n); err != nil {
			return fmt.Errorf("write as yaml: %w", err)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// blockStyle takes JSON's flow style and quotes off.
func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}
