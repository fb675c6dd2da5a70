// Package rbac writes the Kubernetes roles that a worker needs, from the rules
// that the functions of the catalogue declare. It is pure: it asks no cluster.
// Start with Generate.
package rbac

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/catalogue"
)

// Options say for what, for whom and where.
type Options struct {
	// Name begins the names of all roles. Default: thaw.
	Name string
	// Families whose functions the worker runs. Default: all.
	Families []string
	// Namespaces where it runs them: a Role in each. Default: everywhere, by
	// ClusterRoles.
	Namespaces []string
	// Account of the worker, as namespace/name. Default: thaw/thaw-worker.
	Account string
	// With names the optional roles.
	With []string
	// Kinds, as resource.group, are what rules on everything are narrowed to.
	Kinds []string
	// Objects, as resource.group=verb,verb: what blueprints name in KubeOps and
	// conditions, and targets of other kinds than Kanister's.
	Objects []string
}

// Object is a role or a binding.
type Object struct {
	Comment    string    `json:"-"`
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Metadata   Metadata  `json:"metadata"`
	Rules      []Rule    `json:"rules,omitempty"`
	RoleRef    *RoleRef  `json:"roleRef,omitempty"`
	Subjects   []Subject `json:"subjects,omitempty"`
}

// Metadata of an object.
type Metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace,omitempty"`
	Labels    map[string]string `json:"labels"`
}

// Rule of a role.
type Rule struct {
	APIGroups []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Verbs     []string `json:"verbs"`
}

// RoleRef of a binding.
type RoleRef struct {
	APIGroup string `json:"apiGroup"`
	Kind     string `json:"kind"`
	Name     string `json:"name"`
}

// Subject of a binding.
type Subject struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

const group = "rbac.authorization.k8s.io"

// DefaultAccount of a worker.
const DefaultAccount = "thaw/thaw-worker"

var (
	label  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	object = regexp.MustCompile(`^([a-z0-9]+(?:/[a-z]+)?)(?:\.([a-z0-9.-]+))?=([a-z]+(?:,[a-z]+)*)$`)
	kind   = regexp.MustCompile(`^([a-z0-9]+)(?:\.([a-z0-9.-]+))?$`)
)

// part is what becomes one role.
type part struct {
	name    string
	comment string
	rules   []catalogue.Rule
}

// Generate returns the roles and their bindings. Everything that is wrong with
// the options is in one error.
func Generate(c catalogue.Catalogue, o Options) ([]Object, error) {
	o.Name = orDefault(o.Name, "thaw")
	o.Account = orDefault(o.Account, DefaultAccount)
	parts, err := o.parts(c)
	in, name, ok := strings.Cut(o.Account, "/")
	if !ok || !label.MatchString(in) || name == "" || strings.Contains(name, "/") {
		err = errors.Join(err, fmt.Errorf("service account %q: want namespace/name", o.Account))
	}
	for _, ns := range o.Namespaces {
		if !label.MatchString(ns) {
			err = errors.Join(err, fmt.Errorf("namespace %q is no name of a namespace", ns))
		}
	}
	if err != nil {
		return nil, err
	}
	w := writer{o: o, subject: Subject{Kind: "ServiceAccount", Name: name, Namespace: in}}
	for _, p := range parts {
		w.write(p)
	}
	return w.objects, nil
}

func (o *Options) parts(c catalogue.Catalogue) ([]part, error) {
	var faults []error
	byFamily := map[string][]catalogue.Function{}
	for _, f := range c.Functions {
		if !f.Planned {
			byFamily[f.Family] = append(byFamily[f.Family], f)
		}
	}
	families := slices.Clone(o.Families)
	if len(families) == 0 {
		for f := range byFamily {
			families = append(families, f)
		}
	}
	slices.Sort(families)
	var parts []part
	for _, role := range catalogue.Roles() {
		if !role.Optional || slices.Contains(o.With, role.Name) {
			parts = append(parts, part{role.Name, role.Summary, role.Rules})
		}
	}
	for _, w := range o.With {
		if r, ok := catalogue.RoleOf(w); !ok || !r.Optional {
			faults = append(faults, fmt.Errorf("there is no optional role %q; want one of %s", w, strings.Join(Optional(), ", ")))
		}
	}
	for _, family := range slices.Compact(families) {
		functions, ok := byFamily[family]
		if !ok {
			known := make([]string, 0, len(byFamily))
			for f := range byFamily {
				known = append(known, f)
			}
			slices.Sort(known)
			faults = append(faults, fmt.Errorf("there is no family %q; want some of %s", family, strings.Join(known, ", ")))
			continue
		}
		p, err := o.family(family, functions)
		faults = append(faults, err)
		if len(p.rules) > 0 {
			parts = append(parts, p)
		}
	}
	objects := part{name: "objects", comment: "What was asked for by --object: objects that blueprints name."}
	for _, text := range o.Objects {
		m := object.FindStringSubmatch(text)
		if m == nil {
			faults = append(faults, fmt.Errorf("object %q: want resource.group=verb,verb, such as configmaps=get or cassandradatacenters.cassandra.datastax.com=get,patch", text))
			continue
		}
		objects.rules = append(objects.rules, catalogue.Rule{Group: m[2], Resources: []string{m[1]}, Verbs: strings.Split(m[3], ",")})
	}
	if len(objects.rules) > 0 {
		parts = append(parts, objects)
	}
	return parts, errors.Join(faults...)
}

func (o *Options) family(name string, functions []catalogue.Function) (part, error) {
	p := part{name: name}
	var asks, left []string
	var faults []error
	for _, f := range functions {
		switch {
		case len(f.Rules) == 0:
		case len(o.Namespaces) > 0 && makesNamespaces(&f):
			left = append(left, f.Name)
		default:
			asks = append(asks, f.Name)
			rules, err := o.narrowed(f.Rules)
			faults = append(faults, err)
			p.rules = append(p.rules, rules...)
		}
	}
	p.comment = fmt.Sprintf("Functions of the family %s: %s.", name, strings.Join(asks, ", "))
	if len(left) > 0 {
		p.comment += fmt.Sprintf(" Left out: %s, since a role in a namespace cannot be there before the namespace.", strings.Join(left, ", "))
	}
	return p, errors.Join(faults...)
}

// makesNamespaces reports whether a function is of no use to a worker of some
// namespaces.
func makesNamespaces(f *catalogue.Function) bool {
	return slices.ContainsFunc(f.Rules, func(r catalogue.Rule) bool {
		return r.Group == "" && r.Cluster && slices.Contains(r.Resources, "namespaces") && (slices.Contains(r.Verbs, "create") || slices.Contains(r.Verbs, "delete"))
	})
}

// narrowed puts the given kinds in the place of everything.
func (o *Options) narrowed(rules []catalogue.Rule) (out []catalogue.Rule, err error) {
	for _, r := range rules {
		if len(o.Kinds) == 0 || r.Group != "*" {
			out = append(out, r)
			continue
		}
		for _, k := range o.Kinds {
			m := kind.FindStringSubmatch(k)
			if m == nil {
				return nil, fmt.Errorf("kind %q: want resource.group, such as configmaps or deployments.apps", k)
			}
			out = append(out, catalogue.Rule{Group: m[2], Resources: []string{m[1]}, Verbs: r.Verbs, Cluster: r.Cluster})
		}
	}
	return out, nil
}

// Optional lists the optional roles.
func Optional() (names []string) {
	for _, r := range catalogue.Roles() {
		if r.Optional {
			names = append(names, r.Name)
		}
	}
	return names
}

type writer struct {
	o       Options
	subject Subject
	objects []Object
}

func (w *writer) write(p part) {
	name := w.o.Name + "-" + p.name
	if len(w.o.Namespaces) == 0 {
		w.role(name, "", p.comment, p.rules)
		return
	}
	narrow := slices.DeleteFunc(slices.Clone(p.rules), func(r catalogue.Rule) bool { return r.Cluster })
	wide := slices.DeleteFunc(slices.Clone(p.rules), func(r catalogue.Rule) bool { return !r.Cluster })
	for _, ns := range w.o.Namespaces {
		w.role(name, ns, p.comment, narrow)
	}
	if len(wide) > 0 && len(narrow) > 0 {
		p.comment = "The same, of what is in no namespace."
	}
	w.role(name, "", p.comment, wide)
}

// role writes a role and its binding; one without rules is none.
func (w *writer) role(name, namespace, comment string, rules []catalogue.Rule) {
	if len(rules) == 0 {
		return
	}
	prefix := "Cluster"
	if namespace != "" {
		prefix = ""
	}
	meta := Metadata{Name: name, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/part-of": "thaw"}}
	w.objects = append(w.objects,
		Object{Comment: comment, APIVersion: group + "/v1", Kind: prefix + "Role", Metadata: meta, Rules: Merge(rules)},
		Object{
			APIVersion: group + "/v1", Kind: prefix + "RoleBinding", Metadata: meta,
			RoleRef: &RoleRef{APIGroup: group, Kind: prefix + "Role", Name: name}, Subjects: []Subject{w.subject},
		})
}

// order of verbs, as people write them.
var order = []string{"get", "list", "watch", "create", "update", "patch", "delete"}

// Merge joins rules, so that each resource is in one, sorted by group.
func Merge(rules []catalogue.Rule) []Rule {
	type resource struct{ group, name string }
	verbs := map[resource][]string{}
	for _, r := range rules {
		for _, name := range r.Resources {
			verbs[resource{r.Group, name}] = append(verbs[resource{r.Group, name}], r.Verbs...)
		}
	}
	same := map[string]*Rule{}
	for r, list := range verbs {
		slices.SortFunc(list, byOrder)
		list = slices.Compact(list)
		key := r.group + " " + strings.Join(list, ",")
		if same[key] == nil {
			same[key] = &Rule{APIGroups: []string{r.group}, Verbs: list}
		}
		same[key].Resources = append(same[key].Resources, r.name)
	}
	out := make([]Rule, 0, len(same))
	for _, r := range same {
		slices.Sort(r.Resources)
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Rule) int {
		if c := strings.Compare(a.APIGroups[0], b.APIGroups[0]); c != 0 {
			return c
		}
		return strings.Compare(a.Resources[0], b.Resources[0])
	})
	return out
}

func byOrder(a, b string) int {
	i, j := slices.Index(order, a), slices.Index(order, b)
	if i < 0 || j < 0 {
		if i != j {
			return j - i // those that are listed come first
		}
		return strings.Compare(a, b)
	}
	return i - j
}

// YAML writes objects for kubectl apply.
func YAML(objects []Object) ([]byte, error) {
	var out bytes.Buffer
	for i := range objects {
		text, err := json.Marshal(objects[i])
		if err != nil {
			return nil, fmt.Errorf("write roles: %w", err)
		}
		var n yaml.Node
		if err := yaml.Unmarshal(text, &n); err != nil {
			return nil, fmt.Errorf("write roles: %w", err)
		}
		style(&n)
		out.WriteString("---\n")
		for _, line := range wrapped(objects[i].Comment) {
			out.WriteString("# " + line + "\n")
		}
		enc := yaml.NewEncoder(&out)
		enc.SetIndent(2)
		if err := enc.Encode(&n); err != nil {
			return nil, fmt.Errorf("write roles: %w", err)
		}
	}
	return out.Bytes(), nil
}

// style is block style, but for lists of words.
func style(n *yaml.Node) {
	n.Style = 0
	words := n.Kind == yaml.SequenceNode && !slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return c.Kind != yaml.ScalarNode })
	if words {
		n.Style = yaml.FlowStyle
	}
	for _, c := range n.Content {
		style(c)
		if c.Kind == yaml.ScalarNode && (c.Value == "" || c.Value == "*") {
			c.Style = yaml.DoubleQuotedStyle
		}
	}
}

func wrapped(text string) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > 90 {
			lines, line = append(lines, line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
