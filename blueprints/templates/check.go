package templates

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Check reports, from the types alone, why a path cannot be rendered: an
// unknown field of a known structure. It returns "" where nothing is known
// against it.
func Check(r Ref) string {
	t := reflect.TypeFor[Params]()
	for i, elem := range r.Path {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Struct:
			f, ok := t.FieldByName(elem)
			if ok && r.Keyed[i] {
				return fmt.Sprintf("index cannot read field %q of %s: write it with a dot, as (index .Phases \"my-phase\").%s", elem, prefix(r, i), elem)
			}
			if !ok {
				if _, method := t.MethodByName(elem); method || elem == Any {
					return ""
				}
				return unknownField(r, i, t)
			}
			t = f.Type
		case reflect.Map, reflect.Slice:
			if elem != Any && t.Kind() == reflect.Slice && !r.Index[i] {
				return fmt.Sprintf("%s is a list: use {{ index %s 0 }}", prefix(r, i), prefix(r, i))
			}
			t = t.Elem()
		case reflect.Interface:
			return ""
		default:
			return fmt.Sprintf("%s is a %s: it has no field %q", prefix(r, i), t.Kind(), elem)
		}
	}
	return ""
}

func prefix(r Ref, n int) string { return Ref{Path: r.Path[:n]}.String() }

func unknownField(r Ref, i int, t reflect.Type) string {
	name := r.Path[i]
	if i > 0 {
		return fmt.Sprintf("%s has no field %q%s", prefix(r, i), name, Suggest(name, fieldNames(t)))
	}
	if name == "ArtifactsOut" {
		return ".ArtifactsOut does not exist: write output artifacts under the action's outputArtifacts, and read an earlier phase with .Phases.<phase>.Output.<key>"
	}
	s := Suggest(name, fieldNames(t))
	if s == "" {
		s = "; known are " + strings.Join(fieldNames(t), ", ")
	}
	return fmt.Sprintf("there is no .%s in templates%s", name, s)
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		names = append(names, t.Field(i).Name)
	}
	slices.Sort(names)
	return names
}
