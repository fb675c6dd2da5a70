package render

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"thaw/blueprints"
	"thaw/blueprints/plan"
	"thaw/blueprints/templates"
)

// The made-up target of samples.
const (
	sampleName      = "sample"
	sampleNamespace = "sample-namespace"
	sampleTime      = "2026-01-02T03:04:05.000000006Z"
)

// Sample makes up parameters with which every template of an action renders,
// without any target: what the templates name is there. Kind is the target's;
// where it is empty, the templates and the action tell. Render with
// Options.Placeholder, which shows the outputs of phases.
func Sample(bp *blueprints.Blueprint, a *blueprints.Action, kind string) *Params {
	s := &sampler{}
	a.EachString(func(text, _ string, _ bool) { s.read(text) })
	if kind == "" {
		kind = s.kind(a.Kind)
	}
	scope := plan.Scope{
		Target:       plan.Target{Kind: kind, Name: sampleName, Namespace: sampleNamespace},
		Options:      s.options(bp),
		RestorePoint: plan.RestorePointRef{ID: "sample-20260102", Directory: "/restore-points/sample-20260102", Consistent: true},
		Time:         sampleTime,
		Artifacts:    s.artifacts(a),
	}
	p := FromScope(scope)
	for _, w := range []*Workload{p.StatefulSet, p.Deployment, p.DeploymentConfig} {
		if w != nil {
			s.workload(w)
		}
	}
	s.object(p.Object)
	p.Secrets, p.ConfigMaps = map[string]Secret{}, map[string]ConfigMap{}
	for _, name := range append(s.names("Secrets"), a.SecretNames...) {
		p.Secrets[name] = Secret{Meta: Meta{Name: name, Namespace: sampleNamespace}, Data: s.secretData("Secrets", name)}
	}
	for _, name := range append(s.names("ConfigMaps"), a.ConfigMapNames...) {
		data := map[string]string{}
		for _, k := range s.under("ConfigMaps", name, "Data") {
			data[k] = "sample-" + k
		}
		p.ConfigMaps[name] = ConfigMap{Meta: Meta{Name: name, Namespace: sampleNamespace}, Data: data}
	}
	p.Profile = &Profile{
		Location: Location{Type: "s3Compliant", Bucket: "sample-bucket", Endpoint: "https://s3.example.com", Prefix: "sample-prefix", Region: "eu-central-1"},
		Credential: Credential{
			Type: "keyPair", KeyPair: &KeyPair{ID: Masked, Secret: Masked},
			Secret:            &Secret{Meta: Meta{Name: "sample-profile", Namespace: sampleNamespace}, Data: s.secretData("Profile", "Credential", "Secret")},
			KopiaServerSecret: &templates.KopiaServerSecret{Username: "sample", Hostname: "sample", Password: Masked, Cert: Masked},
		},
	}
	p.RepositoryServer = &templates.RepositoryServer{Name: sampleName, Namespace: sampleNamespace, Address: "https://repository.example.com:51515"}
	p.PodOverride, p.PodLabels, p.PodAnnotations = map[string]any{}, map[string]string{}, map[string]string{}
	for k := range s.tree("PodLabels") {
		p.PodLabels[k] = "sample-" + k
	}
	for k := range s.tree("PodAnnotations") {
		p.PodAnnotations[k] = "sample-" + k
	}
	return p
}

// sampler knows all references of an action.
type sampler struct{ refs []templates.Ref }

func (s *sampler) read(text string) {
	if !templates.Has(text) {
		return
	}
	t, err := templates.Parse(text)
	if err != nil {
		return // Lint says so
	}
	refs, _ := t.Refs()
	s.refs = append(s.refs, refs...)
}

var kinds = map[string]string{
	"StatefulSet": "statefulset", "Deployment": "deployment", "DeploymentConfig": "deploymentconfig",
	"PVC": "pvc", "Namespace": "namespace",
}

// kind is that of the target which the templates are written for.
func (s *sampler) kind(declared string) string {
	for _, r := range s.refs {
		if r.Path[0] == declared {
			return kinds[declared]
		}
	}
	for _, r := range s.refs {
		if k, ok := kinds[r.Path[0]]; ok {
			return k
		}
	}
	if declared != "" {
		return strings.ToLower(declared)
	}
	return "statefulset"
}

// names are the second elements of the references to a root.
func (s *sampler) names(root string) []string { return s.under(root) }

// under are the constant names that stand below a path.
func (s *sampler) under(path ...string) []string {
	var out []string
	for _, r := range s.refs {
		if len(r.Path) > len(path) && slices.Equal(r.Path[:len(path)], path) && r.Path[len(path)] != templates.Any && !r.Index[len(path)] {
			out = append(out, r.Path[len(path)])
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (s *sampler) secretData(path ...string) map[string][]byte {
	out := map[string][]byte{}
	for _, k := range s.under(append(path, "Data")...) {
		out[k] = []byte(Masked)
	}
	return out
}

func (s *sampler) artifacts(a *blueprints.Action) map[string]plan.Artifact {
	out := map[string]plan.Artifact{}
	for _, name := range append(s.names("ArtifactsIn"), a.InputArtifactNames...) {
		art := plan.Artifact{KeyValue: map[string]string{}, KopiaSnapshot: `{"id":"sample"}`}
		for _, r := range s.refs {
			if len(r.Path) > 3 && slices.Equal(r.Path[:3], []string{"ArtifactsIn", name, "KeyValue"}) {
				art.KeyValue[r.Path[3]] = fmt.Sprint(leaf(r, r.Path[3]))
			}
		}
		out[name] = art
	}
	return out
}

func (s *sampler) options(bp *blueprints.Blueprint) plan.Values {
	out := plan.Values{}
	for name, v := range s.tree("Options") {
		out[name] = v
	}
	for _, p := range bp.Parameters {
		v := p.Zero()
		if enum, ok := p.Schema["enum"].([]any); ok && !p.HasDefault && len(enum) > 0 {
			v = enum[0]
		} else if v == "" && !p.HasDefault {
			v = "sample-" + p.Name
		}
		out[p.Name] = v
	}
	return out
}

func (s *sampler) workload(w *Workload) {
	pods, containers := 2, 2
	for _, r := range s.refs {
		for i, elem := range r.Path {
			if i == 0 || !r.Index[i] {
				continue
			}
			n, err := templates.Number(elem)
			if err != nil || n > 100 {
				continue
			}
			switch {
			case i == 2 && (r.Path[1] == "Pods" || r.Path[1] == "Containers"):
				pods = max(pods, n+1)
			case i == 3 && r.Path[1] == "Containers":
				containers = max(containers, n+1)
			}
		}
	}
	w.PersistentVolumeClaims = map[string]map[string]string{}
	for i := range pods {
		pod := fmt.Sprintf("%s-%d", w.Name, i)
		w.Pods = append(w.Pods, pod)
		var cs []string
		for j := range containers {
			cs = append(cs, fmt.Sprintf("container-%d", j))
		}
		w.Containers = append(w.Containers, cs)
		w.PersistentVolumeClaims[pod] = map[string]string{"data-" + pod: "/var/lib/data"}
	}
}

// object adds to the target's object what the templates read of it.
func (s *sampler) object(object map[string]any) {
	for k, v := range s.tree("Object") {
		object[k] = merged(object[k], v)
	}
}

func merged(have, more any) any {
	a, ok1 := have.(map[string]any)
	b, ok2 := more.(map[string]any)
	if !ok1 || !ok2 {
		if have != nil && have != "" {
			return have
		}
		return more
	}
	for k, v := range b {
		a[k] = merged(a[k], v)
	}
	return a
}

// node is a value that references ask for.
type node struct {
	fields map[string]*node
	items  []*node
	ranged bool
	leaf   any
}

// tree builds what references below a root ask for.
func (s *sampler) tree(root string) map[string]any {
	top := &node{}
	for _, r := range s.refs {
		if r.Path[0] != root {
			continue
		}
		at := top
		for i := 1; i < len(r.Path) && at != nil; i++ {
			at = at.step(r, i)
		}
		if at != nil && at != top {
			at.ranged = at.ranged || r.Ranged
			at.leaf = leaf(r, r.Path[len(r.Path)-1])
		}
	}
	m, _ := top.value().(map[string]any)
	return m
}

func (n *node) step(r templates.Ref, i int) *node {
	elem := r.Path[i]
	if r.Index[i] {
		k := 0
		if elem != templates.Any {
			k, _ = templates.Number(elem)
		}
		if k < 0 || k > 100 {
			return nil
		}
		for len(n.items) <= k {
			n.items = append(n.items, &node{})
		}
		return n.items[k]
	}
	if elem == templates.Any {
		return nil
	}
	if n.fields == nil {
		n.fields = map[string]*node{}
	}
	if n.fields[elem] == nil {
		n.fields[elem] = &node{}
	}
	return n.fields[elem]
}

func (n *node) value() any {
	switch {
	case len(n.fields) > 0:
		m := make(map[string]any, len(n.fields))
		for k, f := range n.fields {
			m[k] = f.value()
		}
		return m
	case len(n.items) > 0:
		l := make([]any, len(n.items))
		for i, e := range n.items {
			l[i] = e.value()
		}
		return l
	case n.ranged:
		return []any{"sample"}
	case n.leaf == nil:
		return "sample"
	}
	return n.leaf
}

var comparison = regexp.MustCompile(`\b(?:eq|ne|lt|le|gt|ge)\b.*\s-?\d+\b|\b(?:until|untilStep|seq)\b`)

// leaf is a value of the type that the action around the reference asks for.
func leaf(r templates.Ref, name string) any {
	name = name[strings.LastIndex(name, "/")+1:] // of a label's key
	switch {
	case strings.Contains(r.Action, "b64dec"):
		return base64.StdEncoding.EncodeToString([]byte("sample-" + name))
	case strings.Contains(r.Action, "romJson"):
		return "{}"
	case comparison.MatchString(r.Action):
		return int64(1)
	case strings.Contains(r.Action, "toDate"):
		return sampleTime
	}
	return "sample-" + name
}
