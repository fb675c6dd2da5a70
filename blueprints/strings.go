package blueprints

import "thaw/blueprints/plan"

// EachString calls f for every string in a value, keys of mappings included.
// The path of a key is that of its entry.
func EachString(v any, path string, f func(s, path string, key bool)) {
	switch t := v.(type) {
	case string:
		f(t, path, false)
	case []any:
		for i, e := range t {
			EachString(e, item(path, i), f)
		}
	case map[string]any:
		for _, k := range sortedKeys(t) {
			f(k, join(path, k), true)
			EachString(t[k], join(path, k), f)
		}
	}
}

func eachReference(refs map[string]plan.Reference, path string, f func(s, path string, key bool)) {
	for _, name := range sortedKeys(refs) {
		r, p := refs[name], join(path, name)
		for _, e := range []struct{ field, text string }{
			{"kind", r.Kind}, {"name", r.Name}, {"namespace", r.Namespace},
			{"apiVersion", r.APIVersion}, {"group", r.Group}, {"resource", r.Resource},
		} {
			f(e.text, join(p, e.field), false)
		}
	}
}

func eachArtifact(artifacts map[string]plan.Artifact, path string, f func(s, path string, key bool)) {
	for _, name := range sortedKeys(artifacts) {
		p := join(path, name)
		for _, k := range sortedKeys(artifacts[name].KeyValue) {
			kp := join(join(p, "keyValue"), k)
			f(k, kp, true)
			f(artifacts[name].KeyValue[k], kp, false)
		}
		f(artifacts[name].KopiaSnapshot, join(p, "kopiaSnapshot"), false)
	}
}

// EachString calls f for every string of the action that is a template.
func (a *Action) EachString(f func(s, path string, key bool)) {
	a.Each(func(p *Phase) {
		EachString(p.Args, join(p.Path, "args"), f)
		eachReference(p.Objects, join(p.Path, "objects"), f)
	})
	eachArtifact(a.OutputArtifacts, join(a.Path, "outputArtifacts"), f)
}
