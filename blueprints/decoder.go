package blueprints

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"thaw/blueprints/templates"
)

// decoder reads YAML nodes strictly, and goes on after a fault.
type decoder struct {
	file   string
	src    *source
	faults Faults
	thaw   bool
	nodes  int
	depth  int
	bomb   bool
}

func (d *decoder) report(sev Severity, n *yaml.Node, path, code, format string, args ...any) {
	if r := []rune(path); len(r) > 200 {
		path = string(r[:200]) + "…"
	}
	f := Fault{File: d.file, Line: 1, Column: 1, Path: path, Severity: sev, Code: code, Message: fmt.Sprintf(format, args...)}
	if n != nil && n.Line > 0 {
		f.Line, f.Column = n.Line, n.Column
	}
	d.faults = append(d.faults, f)
}

func (d *decoder) fault(n *yaml.Node, path, code, format string, args ...any) {
	d.report(Error, n, path, code, format, args...)
}

// at notes where a path stands, and follows an alias. It returns nil where
// the document expands to more than is sane.
func (d *decoder) at(n *yaml.Node, path string) *yaml.Node {
	d.nodes++
	for hops := 0; n.Kind == yaml.AliasNode && hops < maxDepth; hops++ {
		n = n.Alias
	}
	if d.nodes > maxNodes || d.depth > maxDepth {
		if !d.bomb {
			d.bomb = true
			if d.depth > maxDepth {
				d.fault(n, path, "too-deep", "the document nests deeper than %d levels", maxDepth)
			} else {
				d.fault(n, path, "too-deep", "the document expands to more than %d elements; take out aliases (*name)", maxNodes)
			}
		}
		return nil
	}
	d.src.values[path] = n
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// what names a node for a message.
func what(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!int", "!!float":
			return "the number " + short(n.Value)
		case "!!bool":
			return "the boolean " + short(n.Value)
		case "!!null":
			return "nothing"
		case "!!timestamp":
			return "the date " + short(n.Value)
		}
		return "the text " + strconv.Quote(short(n.Value))
	}
	return "an alias"
}

func short(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

// unquoted reports the mapping that YAML makes of an unquoted {{ … }}.
func unquoted(n *yaml.Node) bool {
	return n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 && len(n.Content) > 0 &&
		n.Content[0].Kind == yaml.MappingNode && n.Content[0].Style&yaml.FlowStyle != 0
}

func (d *decoder) wrongType(n *yaml.Node, path, want string) {
	if unquoted(n) {
		d.fault(n, path, "unquoted-template", "a template must be quoted: '{{ … }}'; without quotes YAML reads it as a mapping")
		return
	}
	hint := ""
	if want == "text" && n.Kind == yaml.ScalarNode {
		hint = "; quote it"
	}
	d.fault(n, path, "wrong-type", "want %s, have %s%s", want, what(n), hint)
}

type entry struct {
	key   string
	node  *yaml.Node // of the key
	value *yaml.Node
}

// entries returns the entries of a mapping in their order, merges (<<) done.
func (d *decoder) entries(n *yaml.Node, path string) []entry {
	seen := map[string]*yaml.Node{}
	var out, merged []entry
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		for k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			if unquoted(n) {
				d.wrongType(n, path, "a mapping")
				return nil
			}
			d.fault(k, path, "wrong-type", "a key must be text, not %s", what(k))
			continue
		}
		if k.Tag == "!!merge" {
			merged = append(merged, d.merge(v, path)...)
			continue
		}
		if first, dup := seen[k.Value]; dup {
			d.fault(k, join(path, k.Value), "duplicate-key", "%q is given twice; the first is in line %d", k.Value, first.Line)
			continue
		}
		seen[k.Value] = k
		d.src.keys[join(path, k.Value)] = k
		out = append(out, entry{k.Value, k, v})
	}
	for _, e := range merged {
		if _, dup := seen[e.key]; !dup {
			seen[e.key] = e.node
			d.src.keys[join(path, e.key)] = e.node
			out = append(out, e)
		}
	}
	return out
}

func (d *decoder) merge(v *yaml.Node, path string) []entry {
	d.depth++
	defer func() { d.depth-- }()
	v = d.at(v, join(path, "<<"))
	switch {
	case v == nil:
		return nil
	case v.Kind == yaml.MappingNode:
		return d.entries(v, path)
	case v.Kind == yaml.SequenceNode:
		var out []entry
		for _, c := range v.Content {
			out = append(out, d.merge(c, path)...)
		}
		return out
	}
	d.fault(v, path, "wrong-type", "<< merges mappings, not %s", what(v))
	return nil
}

// field is how one field of a structure is read.
type field struct {
	name     string
	read     func(n *yaml.Node, path string)
	thaw     bool // Thaw's addition
	required bool
	hidden   bool // known, and of no meaning here
}

// fields reads a mapping with these fields and no others. Hints maps names
// that people write by mistake to what to write.
func (d *decoder) fields(n *yaml.Node, path, of string, hints map[string]string, fields ...field) bool {
	n = d.at(n, path)
	if n == nil {
		return false
	}
	if n.Kind != yaml.MappingNode || unquoted(n) {
		d.wrongType(n, path, "a mapping")
		return false
	}
	d.depth++
	defer func() { d.depth-- }()
	var names []string
	byName := map[string]field{}
	for _, f := range fields {
		byName[f.name] = f
		if !f.hidden && (!f.thaw || d.thaw) {
			names = append(names, f.name)
		}
	}
	given := map[string]bool{}
	for _, e := range d.entries(n, path) {
		f, ok := byName[e.key]
		p := join(path, e.key)
		switch {
		case !ok:
			hint := ""
			if h := hints[e.key]; h != "" {
				hint = "; " + h
			} else if hint = templates.Suggest(e.key, names); hint == "" {
				hint = "; known are " + strings.Join(names, ", ")
			}
			d.fault(e.node, p, "unknown-field", "%s has no field %q%s", of, e.key, hint)
		case f.thaw && !d.thaw:
			d.fault(e.node, p, "needs-thaw", "%q is Thaw's addition to the language; write apiVersion: %s to use it", e.key, ThawVersion)
		default:
			given[e.key] = true
			if f.read != nil {
				f.read(e.value, p)
			}
		}
	}
	for _, f := range fields {
		if f.required && !given[f.name] {
			d.fault(n, path, "missing-field", "%s needs the field %q", of, f.name)
		}
	}
	return true
}

// given reads a field unless it is null, which Kubernetes takes for absent.
func (d *decoder) given(read func(n *yaml.Node, path string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if r := d.at(n, path); r != nil && !isNull(r) {
			read(n, path)
		}
	}
}

// empty: the text at the path is empty.
func (d *decoder) empty(path string) bool {
	n := d.src.values[path]
	return n != nil && n.Kind == yaml.ScalarNode && (n.Value == "" || isNull(n))
}

func (d *decoder) str(into *string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil || isNull(n) {
			return
		}
		if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
			d.wrongType(n, path, "text")
			return
		}
		*into = n.Value
	}
}

func (d *decoder) boolean(into *bool) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil {
			return
		}
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			d.wrongType(n, path, "true or false")
			return
		}
		*into = strings.EqualFold(n.Value, "true")
	}
}

func (d *decoder) integer(into *int, low int) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil {
			return
		}
		i, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || err != nil {
			d.wrongType(n, path, "a whole number")
			return
		}
		if i < low {
			d.fault(n, path, "out-of-range", "want %d or more, have %d", low, i)
			return
		}
		*into = i
	}
}

func (d *decoder) duration(into *time.Duration) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil {
			return
		}
		switch {
		case n.Kind == yaml.ScalarNode && n.Tag == "!!int":
			d.fault(n, path, "bad-duration", "a duration needs a unit: write %ss, %sm or %sh", n.Value, n.Value, n.Value)
			return
		case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
			d.wrongType(n, path, `a duration, such as "90s", "15m" or "1h30m"`)
			return
		case templates.Has(n.Value):
			d.fault(n, path, "bad-duration", "a duration here is fixed in the plan, and so may not be a template")
			return
		}
		v, err := time.ParseDuration(n.Value)
		switch {
		case err != nil && strings.HasSuffix(n.Value, "d"):
			d.fault(n, path, "bad-duration", "%q is no duration: days have no unit, write hours (1d is 24h)", short(n.Value))
		case err != nil:
			d.fault(n, path, "bad-duration", `%q is no duration; write it as "90s", "15m" or "1h30m"`, short(n.Value))
		case v <= 0:
			d.fault(n, path, "bad-duration", "a duration here must be longer than zero, not %s", n.Value)
		default:
			*into = v
		}
	}
}

// list reads a list; each reads one element.
func (d *decoder) list(of string, each func(n *yaml.Node, path string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil || isNull(n) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			d.wrongType(n, path, "a list of "+of)
			return
		}
		d.depth++
		defer func() { d.depth-- }()
		for i, c := range n.Content {
			each(c, item(path, i))
		}
	}
}

func (d *decoder) strings(of string, into *[]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		*into = []string{} // given, if empty: needs: [] is not the same as no needs
		d.list(of, func(n *yaml.Node, path string) {
			var s string
			before := len(d.faults)
			d.str(&s)(n, path)
			switch {
			case len(d.faults) > before:
			case s == "":
				d.fault(n, path, "empty-name", "an element is empty")
			case slices.Contains(*into, s):
				d.fault(n, path, "duplicate-name", "%q is listed twice", s)
			default:
				*into = append(*into, s)
			}
		})(n, path)
	}
}

// mapping reads a mapping of names that the author chose.
func (d *decoder) mapping(each func(e entry, path string)) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		if n = d.at(n, path); n == nil || isNull(n) {
			return
		}
		if n.Kind != yaml.MappingNode || unquoted(n) {
			d.wrongType(n, path, "a mapping")
			return
		}
		d.depth++
		defer func() { d.depth-- }()
		for _, e := range d.entries(n, path) {
			each(e, join(path, e.key))
		}
	}
}

func (d *decoder) stringMap(into *map[string]string) func(*yaml.Node, string) {
	return func(n *yaml.Node, path string) {
		m := map[string]string{}
		d.mapping(func(e entry, path string) {
			var s string
			d.str(&s)(e.value, path)
			m[e.key] = s
		})(n, path)
		*into = m
	}
}

// yesNo are plain words that Kubernetes, whose YAML is version 1.1, reads as
// booleans.
var yesNo = map[string]bool{
	"yes": true, "Yes": true, "YES": true, "on": true, "On": true, "ON": true,
	"no": false, "No": false, "NO": false, "off": false, "Off": false, "OFF": false,
}

// value reads any YAML value; integers become int64.
func (d *decoder) value(n *yaml.Node, path string) any {
	n = d.at(n, path)
	if n == nil {
		return nil
	}
	d.depth++
	defer func() { d.depth-- }()
	switch n.Kind {
	case yaml.MappingNode:
		if unquoted(n) {
			d.wrongType(n, path, "a value")
			return nil
		}
		m := map[string]any{}
		for _, e := range d.entries(n, path) {
			m[e.key] = d.value(e.value, join(path, e.key))
		}
		return m
	case yaml.SequenceNode:
		l := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			l = append(l, d.value(c, item(path, i)))
		}
		return l
	}
	switch n.Tag {
	case "!!null":
		return nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true")
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i
		}
		return n.Value // out of range: the digits, rather than a rounded float
	case "!!float": // large whole numbers too
		var f float64
		if strings.Trim(n.Value, "0123456789+-") != "" && n.Decode(&f) == nil {
			return f
		}
		return n.Value
	case "!!str", "!!timestamp":
		if b, ok := yesNo[n.Value]; ok && n.Style == 0 {
			d.report(Warning, n, path, "yaml-boolean", "Kubernetes reads a plain %s as %t, and so does Thaw; write %t, or quote it", n.Value, b, b)
			return b
		}
		return n.Value
	case "!!binary":
		return strings.Join(strings.Fields(n.Value), "")
	}
	d.fault(n, path, "unknown-tag", "the YAML tag %s means nothing here", short(n.Tag))
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (d *decoder) span(n *yaml.Node, path string) (v time.Duration) {
	d.duration(&v)(n, path)
	return v
}
