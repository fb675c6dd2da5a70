package schema_test

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"thaw/blueprints/plan"
	"thaw/docs"
)

var update = flag.Bool("update", false, "write restorepoint.schema.json again")

const restorePointID = "https://thaw.dev/schema/restorepoint.json"

// The schema that is published is that of the record as it is written, with
// the words of its source.
func TestTheSchemaOfRestorePointsIsThatOfTheRecord(t *testing.T) {
	want := restorePointSchema(t)
	file := filepath.Join("..", "..", "docs", "restorepoint.schema.json")
	if *update {
		require.NoError(t, os.WriteFile(file, want, 0o644))
		return
	}
	require.Equal(t, string(want), string(docs.RestorePointSchema), "run: make golden")
}

// Records of real runs fit it; the schema names every field that they have.
func TestRealRecordsFitTheSchema(t *testing.T) {
	strict := recordSchema(t, true)
	files, err := filepath.Glob(filepath.Join("..", "..", "workflows", "testdata", "history", "*", "*.json"))
	require.NoError(t, err)
	n := 0
	for _, f := range files {
		for _, record := range recorded(t, f) {
			doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(record)))
			require.NoError(t, err)
			require.NoError(t, strict.Validate(doc), f)
			n++
		}
	}
	require.Greater(t, n, 5, "records in the histories of the replay tests")
}

func TestARecordOfEverythingFitsTheSchema(t *testing.T) {
	var rp plan.RestorePoint
	full(reflect.ValueOf(&rp).Elem())
	rp.APIVersion, rp.ID = plan.RestorePointVersion, "shop-1"
	for i := range rp.Files {
		rp.Files[i].SHA256 = strings.Repeat("0a", 32)
	}
	b, err := json.Marshal(rp)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	require.NoError(t, err)
	require.NoError(t, recordSchema(t, true).Validate(doc))
}

func TestWhatIsNoRecordDoesNotFitTheSchema(t *testing.T) {
	s := recordSchema(t, false)
	good := func() map[string]any {
		b, err := json.Marshal(plan.RestorePoint{APIVersion: plan.RestorePointVersion, ID: "shop-1", Target: plan.Target{Name: "x"}, Files: []plan.File{{Name: "a", SHA256: strings.Repeat("0a", 32)}}})
		require.NoError(t, err)
		var m map[string]any
		require.NoError(t, json.Unmarshal(b, &m))
		return m
	}
	require.NoError(t, s.Validate(good()))
	for name, change := range map[string]func(m map[string]any){
		"another version":   func(m map[string]any) { m["apiVersion"] = "thaw.dev/restorepoint/v9" },
		"an id with a path": func(m map[string]any) { m["id"] = "../x" },
		"no target":         func(m map[string]any) { delete(m, "target") },
		"a sum that is none": func(m map[string]any) {
			m["files"].([]any)[0].(map[string]any)["sha256"] = "x"
		},
		"consistent in words": func(m map[string]any) { m["consistent"] = "yes" },
		"a time that is none": func(m map[string]any) { m["completedAt"] = "yesterday" },
	} {
		t.Run(name, func(t *testing.T) {
			m := good()
			change(m)
			require.Error(t, s.Validate(m))
		})
	}
	m := good()
	m["added"] = "by a later release of the same version"
	require.NoError(t, s.Validate(m), "fields may be added")
}

// recordSchema compiles what is published. Strict: with no other fields than
// those that it names.
func recordSchema(t *testing.T, strict bool) *jsonschema.Schema {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(docs.RestorePointSchema)))
	require.NoError(t, err)
	if strict {
		root := doc.(map[string]any)
		for _, d := range append([]any{root}, values(root["$defs"].(map[string]any))...) {
			if m := d.(map[string]any); m["properties"] != nil {
				m["additionalProperties"] = false
			}
		}
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	require.NoError(t, c.AddResource(restorePointID, doc))
	s, err := c.Compile(restorePointID)
	require.NoError(t, err)
	return s
}

func values(m map[string]any) (all []any) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// recorded are the restore points that a history has: what its activity Record
// was given.
func recorded(t *testing.T, file string) (all [][]byte) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var h struct {
		Events []struct {
			Scheduled struct {
				Type  struct{ Name string } `json:"activityType"`
				Input struct {
					Payloads []struct{ Data string }
				}
			} `json:"activityTaskScheduledEventAttributes"`
		}
	}
	require.NoError(t, json.Unmarshal(text, &h))
	for _, e := range h.Events {
		if e.Scheduled.Type.Name == plan.ActivityRecord {
			b, err := base64.StdEncoding.DecodeString(e.Scheduled.Input.Payloads[0].Data)
			require.NoError(t, err)
			all = append(all, b)
		}
	}
	return all
}

// full sets every field, down to where types repeat.
func full(v reflect.Value) {
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			full(v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		full(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		full(v.Index(0))
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		full(e)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), e)
	case reflect.String:
		v.SetString(plan.PhaseDone) // a text, and a state
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Interface:
		v.Set(reflect.ValueOf(map[string]any{"a": []any{int64(1), "b", nil}}))
	default:
		panic(v.Kind())
	}
}

// restorePointSchema makes the schema of plan.RestorePoint: its fields, and the
// comments that its source has on them. It leaves room for others: a field that
// is added makes no new version.
func restorePointSchema(t *testing.T) []byte {
	g := &generator{t: t, comments: comments(t), defs: map[string]any{}, used: map[string]bool{}}
	root := g.object(reflect.TypeFor[plan.RestorePoint]())
	root["$schema"], root["$id"], root["title"] = "https://json-schema.org/draft/2020-12/schema", restorePointID, "Restore point"
	root["$defs"] = g.defs
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	require.NoError(t, enc.Encode(root))
	for name := range more {
		require.True(t, g.used[name], "%s is in no record any more", name)
	}
	return []byte(b.String())
}

// more is what a type does not say of a field.
var more = map[string]map[string]any{
	"RestorePoint.apiVersion": {"const": plan.RestorePointVersion},
	"RestorePoint.id":         {"pattern": `^[a-z0-9][a-z0-9.-]*$`},
	"File.size":               {"minimum": 0},
	"File.sha256":             {"pattern": `^[0-9a-f]{64}$`},
	"PhaseRecord.state":       {"enum": []any{plan.PhaseDone, plan.PhaseFailed, plan.PhaseSkipped}},
}

type generator struct {
	t        *testing.T
	comments map[string]string
	defs     map[string]any
	used     map[string]bool // fields, by type and name
}

func (g *generator) of(t reflect.Type) map[string]any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[plan.Duration]():
		return map[string]any{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return g.of(t.Elem())
	case reflect.Struct:
		if _, ok := g.defs[t.Name()]; !ok {
			g.defs[t.Name()] = nil // it is being made
			g.defs[t.Name()] = g.object(t)
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": g.of(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": g.of(t.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Interface:
		return map[string]any{}
	}
	require.Fail(g.t, "no schema", "%s", t)
	return nil
}

func (g *generator) object(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []any{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		require.NotEmpty(g.t, name, "%s.%s", t.Name(), f.Name)
		s := g.of(f.Type)
		for k, v := range more[t.Name()+"."+name] {
			s[k] = v
		}
		g.used[t.Name()+"."+name] = true
		if c := g.comments[t.Name()+"."+f.Name]; c != "" {
			s["description"] = c
		}
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
		properties[name] = s
	}
	s := map[string]any{"type": "object", "properties": properties, "description": g.comments[t.Name()]}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// comments are those of the types and fields of package plan.
func comments(t *testing.T) map[string]string {
	all := map[string]string{}
	words := func(groups ...*ast.CommentGroup) string {
		for _, g := range groups {
			if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
				return text
			}
		}
		return ""
	}
	files, err := filepath.Glob(filepath.Join("..", "plan", "*.go"))
	require.NoError(t, err)
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ParseComments)
		require.NoError(t, err)
		for _, d := range parsed.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range gen.Specs {
				ts, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				all[ts.Name.Name] = words(ts.Doc, gen.Doc)
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}

				for _, field := range st.Fields.List {
					text := words(field.Doc, field.Comment)
					for _, n := range field.Names {
						all[fmt.Sprintf("%s.%s", ts.Name.Name, n.Name)] = text
					}
				}
			}
		}
	}
	return all
}
