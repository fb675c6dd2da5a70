package blueprintcmd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/fault"
	"thaw/blueprints/library"
)

func lintCommand() *cobra.Command {
	var out format
	var strict bool
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Check blueprints: every mistake, with its place",
		Long: `Checks blueprints as a run checks them before it starts: the YAML, unknown fields,
functions and arguments, references to outputs that no earlier phase has, templates and
conditions that do not parse, freezes that cannot be proven. All that is wrong is reported
at once, as file:line:column: severity: path: message [code].

A FILE may be a directory (all blueprints below it), or - for the standard input.

Exit status: 0 no errors, 1 errors (with --strict: or warnings).`,
		Example: `  thaw blueprint lint shop.yaml
  thaw blueprint lint --strict blueprints/          # in CI: warnings fail too
  kubectl get blueprint -n kasten-io shop -o yaml | thaw blueprint lint -
  thaw blueprint lint shop.yaml -o json | jq -r '.[].code'`,
		Args:          cobra.MinimumNArgs(1),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			files, err := read(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			faults := blueprints.Faults{}
			for _, f := range files {
				faults = append(faults, lintFile(f)...)
			}
			if err := printFaults(cmd.OutOrStdout(), &out, faults); err != nil {
				return err
			}
			errs, warns := len(faults.Errors()), len(faults.Warnings())
			if errs > 0 || strict && warns > 0 {
				return fault.New(fault.User, "lint: %s, %s in %s", count(errs, "error"), count(warns, "warning"), count(len(files), "file"))
			}
			return nil
		},
	}
	out.flag(cmd, "text", "text", "table", "json", "yaml")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings too")
	return cmd
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func lintFile(f file) blueprints.Faults {
	bps, faults := blueprints.ParseAll(f.name, f.text)
	for _, b := range bps {
		faults = append(faults, blueprints.Lint(b, catalogue.Default())...)
	}
	return faults.Sort()
}

func printFaults(w io.Writer, out *format, faults blueprints.Faults) error {
	switch out.name {
	case "text":
		for _, f := range faults {
			if _, err := fmt.Fprintln(w, f); err != nil {
				return err
			}
		}
		return nil
	case "table":
		t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		fmt.Fprintln(t, "PLACE\tSEVERITY\tCODE\tMESSAGE")
		for _, f := range faults {
			fmt.Fprintf(t, "%s:%d:%d\t%s\t%s\t%s\n", f.File, f.Line, f.Column, f.Severity, f.Code, f.Message)
		}
		return t.Flush()
	}
	return out.data(w, faults)
}

type file struct {
	name string
	text []byte
}

// read reads files, the blueprints below directories, and - for in.
func read(in io.Reader, names []string) ([]file, error) {
	var files []file
	var errs []error
	for _, name := range names {
		found, err := readOne(in, name)
		if err != nil {
			errs = append(errs, err)
		}
		files = append(files, found...)
	}
	if len(errs) > 0 {
		return nil, fault.New(fault.User, "%w", errors.Join(errs...))
	}
	return files, nil
}

func readOne(in io.Reader, name string) ([]file, error) {
	if name == "-" {
		text, err := io.ReadAll(io.LimitReader(in, blueprints.MaxFile+1))
		if err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
		return []file{{"stdin", text}}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("blueprint: %w", err)
	}
	if !info.IsDir() {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("blueprint: %w", err)
		}
		return []file{{name, text}}, nil
	}
	var files []file
	err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !isYAML(path) {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && looksLikeBlueprint(text) {
			files = append(files, file{path, text})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("blueprints below %s: %w", name, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no blueprint below %s: want .yaml or .yml files with kind: Blueprint", name)
	}
	return files, nil
}

func isYAML(path string) bool {
	return strings.HasSuffix(path, ".yaml") || strings.HasSuffix(path, ".yml")
}

// looksLikeBlueprint tells blueprints from the values files and manifests that
// stand beside them. One that is no YAML counts where it says that it is one.
func looksLikeBlueprint(text []byte) bool {
	var head struct{ Kind string }
	if err := yaml.Unmarshal(text, &head); err != nil {
		return strings.Contains(string(text), "kind: "+blueprints.Kind)
	}
	return head.Kind == blueprints.Kind
}

// load reads one blueprint by file name, or by its name in the library, and
// fails with all that is wrong with it.
func load(in io.Reader, name string) (*blueprints.Blueprint, error) {
	var f file
	if text, err := library.Load(name); err == nil {
		f = file{name + "/" + library.File, text}
	} else {
		files, err := read(in, []string{name})
		if err != nil {
			return nil, err
		}
		if len(files) != 1 {
			return nil, usage("%s holds %d blueprints; name one of them", name, len(files))
		}
		f = files[0]
	}
	bp, faults := blueprints.Parse(f.name, f.text)
	faults = append(faults, blueprints.Lint(bp, catalogue.Default())...).Sort()
	if err := faults.Err(); err != nil {
		return nil, fault.New(fault.User, "%w", err)
	}
	return bp, nil
}
