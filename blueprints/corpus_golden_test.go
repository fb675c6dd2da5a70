package blueprints_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"text/template/parse"

	"github.com/Masterminds/sprig/v3"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/blueprints/templates"
)

// checked are the golden files that were checked by hand, against Kanister's
// documentation of its templates: what each was looked at for.
var checked = map[string]string{
	"csi-snapshot_csi-snapshot":                           "index into a list of the object (volumes 0), outputs and artifacts by name, the target's name and namespace; replicas without a template stay integers.",
	"time-log_time-log":                                   "a bucket in front of fixed text; the first pod of a Deployment; no secret of the profile is in any argument.",
	"postgres_postgres-start-stop":                        "keys of a map are rendered (volumes); trimmed range with break takes the first claim of the first pod; len of the pods is a text; a []byte secret by index and toString; WaitV2's condition is as it was, its references are rendered; the deferPhase has no name.",
	"cassandra_cassandra":                                 "range over the pods leaves a space before each, as Kanister's does; len prints 2; a namespace's target is named by its object (delete).",
	"mongo-sidecar_mongo-sidecar":                         "secrets and config maps of the run by field; the date's layout with dashes in place of colons; the same time in the artifact and in the command.",
	"elasticsearch_elasticsearch":                         "toJson of the profile has lower-case names in the location and Go's in the credential, with <, > and & escaped as encoding/json does; time to the second with Z.",
	"mysql_mysql":                                         "a label by index with a slash in its key; toDate of nanoseconds; the secret of the phase's own objects; a namespace's target by .Namespace (delete).",
	"redis_redis":                                         "two labels in one word; the secret's key with a dash; the same as mysql otherwise.",
	"k8ssandra_k8ssandra":                                 "a date whose layout has a small t, as it is; a manifest as one text; Wait's conditions are as they were, its references are rendered from outputs and artifacts.",
	"elasticsearch-incremental_elasticsearch-incremental": "a small z is none of Go's layouts, so that z07:00 stays in the name; if takes the profile's key pair and leaves its secret unescaped; len of a list of the object is 1; Wait's condition with JSON paths is as it was.",
	"postgres-basic-pgdump_postgres-basic-pgdump":         "upper and replace make MY_DB of the name, after a $ of the shell; secrets of the run by field.",
	"mongodb-atlas_mongodb-atlas":                         "a target that is a Secret has its data in base64, which toString and b64dec read; the same keys of a phase's objects are bytes already; an action's artifacts name the objects of the next.",
}

// Every argument, object and output artifact of the public blueprints renders
// to what Kanister's rules give: Go's text/template with sprig and
// missingkey=error, which is run here beside Thaw's renderer, and which the
// golden files hold: for each text with templates the value of each of its
// actions, in order, and the digest of the whole. The blueprints themselves are
// not in them.
func TestCorpusRendersAsKanisterDoes(t *testing.T) {
	seen := 0
	for name, text := range corpus(t) {
		t.Run(name, func(t *testing.T) {
			bp, faults := blueprints.Parse(name, text)
			require.Empty(t, faults)
			var out bytes.Buffer
			file := strings.NewReplacer("kanister/", "", "/", "_", "-blueprint.yaml", "").Replace(name) + ".yaml"
			if c := checked[strings.TrimSuffix(file, ".yaml")]; c != "" {
				seen++
				fmt.Fprintf(&out, "# Checked by hand: %s\n", c)
			}
			enc := yaml.NewEncoder(&out)
			enc.SetIndent(2)
			require.NoError(t, enc.Encode(renderedActions(t, bp)))
			path := filepath.Join("testdata", "rendered", file)
			if *update {
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), out.String(), "run: make golden")
		})
	}
	require.Equal(t, len(checked), seen, "each comment is of a golden file")
	require.GreaterOrEqual(t, seen, 10)
}

// entry is one text with templates.
type entry struct {
	Path    string   `yaml:"path"`
	Actions []string `yaml:"actions"`
	SHA256  string   `yaml:"sha256"`
}

func renderedActions(t *testing.T, bp *blueprints.Blueprint) map[string][]entry {
	all := map[string][]entry{}
	cat := catalogue.Default()
	for _, a := range bp.Actions {
		p := madeUp(bp, a)
		var entries []entry
		a.Each(func(ph *blueprints.Phase) {
			p.CurrentPhase = ph.Name
			fn, ok := cat.Lookup(ph.Func)
			require.True(t, ok, ph.Func)
			got, err := render.Args(fn, plan.Values(ph.Args), p, render.Options{Path: ph.Path})
			require.NoError(t, err)
			for _, name := range slices.Sorted(func(yield func(string) bool) {
				for k := range ph.Args {
					if !yield(k) {
						return
					}
				}
			}) {
				arg, _ := fn.Arg(name)
				c := comparison{t, p, arg.Raw, &entries}
				c.walk(ph.Args[name], got[name], ph.Name+".args."+name)
			}
			refs, err := render.References(ph.Objects, p, render.Options{Path: ph.Path})
			require.NoError(t, err)
			c := comparison{t, p, false, &entries}
			for name, ref := range ph.Objects {
				c.walk(ref.Name, refs[name].Name, ph.Name+".objects."+name+".name")
				c.walk(ref.Namespace, refs[name].Namespace, ph.Name+".objects."+name+".namespace")
			}
		})
		arts, err := render.Artifacts(a.OutputArtifacts, p, render.Options{Path: a.Path})
		require.NoError(t, err)
		c := comparison{t, p, false, &entries}
		for name, art := range a.OutputArtifacts {
			for k, v := range art.KeyValue {
				c.walk(v, arts[name].KeyValue[k], "outputArtifacts."+name+"."+k)
			}
		}
		slices.SortStableFunc(entries, func(a, b entry) int { return strings.Compare(a.Path, b.Path) })
		all[a.Name] = entries
	}
	return all
}

// comparison is of what stands in a blueprint and what it rendered to.
type comparison struct {
	t       *testing.T
	p       *render.Params
	raw     bool // conditions are left to the function
	entries *[]entry
}

// walk compares a value. What has no template is as it was, of the type that
// it was.
func (c *comparison) walk(from, to any, path string) {
	c.t.Helper()
	switch src := from.(type) {
	case string:
		if !templates.Has(src) || c.raw && strings.HasSuffix(path, ".condition") {
			require.Equal(c.t, from, to, path)
			return
		}
		require.Equal(c.t, kanisters(c.t, src, c.p), to, path)
		sum := sha256.Sum256([]byte(to.(string)))
		*c.entries = append(*c.entries, entry{path, actionsOf(c.t, src, c.p), hex.EncodeToString(sum[:])})
	case []any:
		out, ok := to.([]any)
		require.True(c.t, ok, path)
		require.Len(c.t, out, len(src), path)
		for i := range src {
			c.walk(src[i], out[i], fmt.Sprintf("%s[%d]", path, i))
		}
	case map[string]any:
		out, ok := to.(map[string]any)
		require.True(c.t, ok, path)
		require.Len(c.t, out, len(src), path)
		for k, v := range src {
			key := k
			if templates.Has(k) {
				key = kanisters(c.t, k, c.p)
			}
			require.Contains(c.t, out, key, path)
			c.walk(v, out[key], path+"."+key)
		}
	default:
		require.Equal(c.t, from, to, path)
	}
}

// kanisters renders a text as Kanister does.
func kanisters(t *testing.T, text string, p *render.Params) string {
	t.Helper()
	tmpl, err := template.New("kanister").Option("missingkey=error").Funcs(sprig.TxtFuncMap()).Parse(text)
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, tmpl.Execute(&out, p), text)
	return out.String()
}

// The marks around the value of an action.
const begin, end = "\x01", "\x02"

var marked = regexp.MustCompile(begin + `([^` + begin + end + `]*)` + end)

// actionsOf are the values that the actions of a text print.
func actionsOf(t *testing.T, text string, p *render.Params) []string {
	t.Helper()
	tree := parse.New("actions")
	tree.Mode = parse.SkipFuncCheck
	tree, err := tree.Parse(text, "", "", map[string]*parse.Tree{})
	require.NoError(t, err)
	mark(tree.Root)
	out, err := render.String(tree.Root.String(), p, render.Options{})
	require.NoError(t, err)
	values := []string{}
	for _, m := range marked.FindAllStringSubmatch(out, -1) {
		values = append(values, m[1])
	}
	return values
}

// mark puts marks around every action that prints.
func mark(list *parse.ListNode) {
	if list == nil {
		return
	}
	var nodes []parse.Node
	for _, n := range list.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			if len(n.Pipe.Decl) == 0 {
				nodes = append(nodes, &parse.TextNode{NodeType: parse.NodeText, Text: []byte(begin)}, n, &parse.TextNode{NodeType: parse.NodeText, Text: []byte(end)})
				continue
			}
		case *parse.IfNode:
			mark(n.List)
			mark(n.ElseList)
		case *parse.RangeNode:
			mark(n.List)
			mark(n.ElseList)
		case *parse.WithNode:
			mark(n.List)
			mark(n.ElseList)
		}
		nodes = append(nodes, n)
	}
	list.Nodes = nodes
}

var (
	outputOf = regexp.MustCompile(`\.Phases\.(\w+)\.Output\.(\w+)`)
	secretOf = regexp.MustCompile(`\.Phases\.(\w+)\.Secrets\.(\w+)\.Data(?:\.(\w+)|\s+"([^"]+)")?`)
)

// madeUp are parameters as a run would have: a target, secrets in bytes, and
// outputs of the phases, of which originalReplicaCount is a number.
func madeUp(bp *blueprints.Blueprint, a *blueprints.Action) *render.Params {
	p := render.Sample(bp, a, "")
	render.Rename(p, "my-db", "shop")
	p.Time = "2026-11-25T17:08:09.123456789Z"
	p.Profile.Credential.KeyPair = &render.KeyPair{ID: "AKIA", Secret: "a/secret+key=\"<>&"}
	phase := func(name string) *render.Phase {
		if p.Phases[name] == nil {
			p.Phases[name] = &render.Phase{Output: map[string]any{}, Secrets: map[string]render.Secret{}, ConfigMaps: map[string]render.ConfigMap{}}
		}
		return p.Phases[name]
	}
	a.EachString(func(text, _ string, _ bool) {
		for _, m := range outputOf.FindAllStringSubmatch(text, -1) {
			phase(m[1]).Output[m[2]] = m[1] + "'s " + m[2]
			if m[2] == "originalReplicaCount" {
				phase(m[1]).Output[m[2]] = int64(3000000)
			}
		}
		for _, m := range secretOf.FindAllStringSubmatch(text, -1) {
			s := phase(m[1]).Secrets[m[2]]
			if s.Data == nil {
				s = render.Secret{Meta: render.Meta{Name: m[2], Namespace: "shop"}, Data: map[string][]byte{}}
			}
			if key := m[3] + m[4]; key != "" {
				s.Data[key] = []byte("of " + m[2] + ": " + key)
			}
			phase(m[1]).Secrets[m[2]] = s
		}
	})
	return p
}
