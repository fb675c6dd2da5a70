// Package schema makes the JSON Schema (2020-12) of blueprint files, from the
// catalogue, so that editors complete and explain what people write. It is
// laxer than the linter: it knows no templates. Start with Schema.
package schema

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"thaw/blueprints"
	"thaw/blueprints/catalogue"
)

// ID names the schema.
const ID = "https://thaw.dev/schema/blueprint.json"

type object = map[string]any

// Schema returns the schema of blueprints that use these functions.
func Schema(cat catalogue.Catalogue) object {
	defs := object{
		"retry":       retry(),
		"approval":    approval(),
		"reference":   reference(),
		"artifact":    artifact(),
		"duration":    object{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$`, "examples": []any{"90s", "15m", "1h30m"}},
		"names":       object{"type": []any{"array", "null"}, "items": object{"type": "string", "minLength": 1}, "uniqueItems": true},
		"scalar":      object{"type": []any{"string", "number", "boolean", "null"}},
		"stringMap":   object{"type": []any{"object", "null"}, "additionalProperties": object{"type": "string"}},
		"functionArg": object{"type": []any{"object", "null"}},
	}
	for _, f := range cat.Functions {
		defs["args."+f.Name] = arguments(f)
	}
	for _, thaw := range []bool{false, true} {
		for name, s := range language(cat, thaw) {
			defs[dialect(thaw)+"."+name] = s
		}
	}
	return object{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"$id":     ID,
		"title":   "Blueprint",
		"description": "A blueprint says how one kind of database is frozen, captured, thawed, exported and restored. " +
			"apiVersion " + blueprints.KanisterVersion + " is Kanister's language; " + blueprints.ThawVersion + " adds freezes, compensations, conditions and more.",
		"type":     "object",
		"required": []any{"apiVersion", "kind", "metadata", "actions"},
		"properties": object{
			"apiVersion": object{"enum": []any{blueprints.KanisterVersion, blueprints.ThawVersion}},
			"kind":       object{"const": blueprints.Kind},
		},
		"if":    object{"properties": object{"apiVersion": object{"const": blueprints.ThawVersion}}},
		"then":  ref("thaw.blueprint"),
		"else":  ref("kanister.blueprint"),
		"$defs": defs,
	}
}

// JSON returns the schema as it is published.
func JSON(cat catalogue.Catalogue) ([]byte, error) {
	b, err := json.MarshalIndent(Schema(cat), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the schema: %w", err)
	}
	return append(b, '\n'), nil
}

func dialect(thaw bool) string {
	if thaw {
		return "thaw"
	}
	return "kanister"
}

func ref(name string) object { return object{"$ref": "#/$defs/" + name} }

func described(s object, text string) object {
	out := object{"description": text}
	for k, v := range s {
		out[k] = v
	}
	return out
}

func text(doc string) object { return object{"type": "string", "description": doc} }

func closed(props object, required ...any) object {
	s := object{"type": "object", "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// language is what the two dialects differ in.
func language(cat catalogue.Catalogue, thaw bool) map[string]object {
	d := dialect(thaw) + "."
	phases := object{"type": []any{"array", "null"}, "items": ref(d + "phase"), "description": "Phases, run in order"}
	blueprint := object{
		"apiVersion": object{}, "kind": object{}, "status": object{},
		"metadata": object{"type": "object", "description": "name, and what Kubernetes adds", "properties": object{
			"name":   object{"type": "string", "pattern": `^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`, "maxLength": 253},
			"labels": ref("stringMap"), "annotations": ref("stringMap"),
		}},
		"actions": object{"type": "object", "minProperties": 1, "additionalProperties": ref(d + "action"),
			"description": "Actions by name, such as backup, restore and delete"},
	}
	action := object{
		"name": text("Informative"), "kind": text("Kind of target that the action is for"),
		"secretNames":        described(ref("names"), "Secrets that the request must give; templates read them as .Secrets.<name>"),
		"configMapNames":     described(ref("names"), "Config maps that the request must give; templates read them as .ConfigMaps.<name>"),
		"inputArtifactNames": described(ref("names"), "Artifacts that an earlier action left; templates read them as .ArtifactsIn.<name>"),
		"outputArtifacts": object{"type": []any{"object", "null"}, "additionalProperties": ref("artifact"),
			"description": "What this action leaves for later ones; rendered when all phases are done"},
		"phases":     phases,
		"deferPhase": described(ref(d+"deferPhase"), "Runs at the end, whatever came before"),
	}
	call := object{
		"func":    object{"type": "string", "description": "The function to call", "examples": names(cat)},
		"args":    described(ref("functionArg"), "Arguments of the function; templates"),
		"objects": object{"type": []any{"object", "null"}, "additionalProperties": ref("reference"), "description": "Secrets and ConfigMaps that the phase's templates read as .Phases.<phase>.Secrets.<name>"},
	}
	if thaw {
		blueprint["description"] = text("What the blueprint is for")
		blueprint["parameters"] = object{
			"type": []any{"object", "null"}, "description": "Options by name, each a JSON Schema; templates read them as .Options.<name>",
			// `required: true` is Thaw's own, so a parameter is not quite a schema.
			"additionalProperties": object{"type": []any{"object", "null"}, "properties": object{
				"type": object{"enum": []any{"string", "integer", "number", "boolean", "array", "object"}}, "description": object{"type": "string"},
				"required": object{"type": []any{"boolean", "array"}, "description": "true: the request must give it"},
			}},
		}
		action["description"] = text("What the action does")
		action["verify"] = described(phases, "Phases that check what the action did")
		action["approval"] = described(ref("approval"), "A person's yes to the plan before anything is done")
		call["timeout"] = described(ref("duration"), "How long one attempt may take")
		call["retry"] = described(ref("retry"), "When a failed attempt is followed by another")
	}
	phase := object{"name": object{"type": "string", "minLength": 1, "description": "Name of the phase, by which later ones read its output"}}
	deferred := object{"name": text("Name of the phase; may be left out")}
	for k, v := range call {
		phase[k], deferred[k] = v, v
	}
	phaseSchema := closed(phase, "name", "func")
	if thaw {
		phase["when"] = text(`CEL over target, options and outputs: the phase is skipped where it is false. Such as: outputs.find.size != "0"`)
		phase["needs"] = described(ref("names"), "Phases that must be done before; without it, the phase before")
		phase["idempotent"] = object{"type": "boolean", "description": "It may run again when the outcome of an attempt is unknown"}
		phase["compensate"] = described(ref(d+"call"), "A call that undoes the phase, in reverse order, if a later one fails")
		phase["freeze"] = described(ref("thaw.freeze"), "The phases inside run while the database is frozen")
		phase["phases"] = phases
		delete(phaseSchema, "required")
		phaseSchema["oneOf"] = []any{
			object{"required": []any{"name", "func"}, "not": object{"anyOf": []any{object{"required": []any{"freeze"}}, object{"required": []any{"phases"}}}}},
			object{"required": []any{"name", "freeze"}, "not": object{"required": []any{"func"}}},
		}
	}
	out := map[string]object{
		"blueprint":  closed(blueprint),
		"action":     closed(action, "phases"),
		"phase":      byFunction(cat, phaseSchema),
		"deferPhase": byFunction(cat, closed(deferred, "func")),
		"call":       byFunction(cat, closed(call, "func")),
	}
	if thaw {
		out["freeze"] = closed(object{
			"do":        described(ref("thaw.call"), "The call that freezes"),
			"undo":      described(ref("thaw.call"), "The call that thaws; it runs whatever happens"),
			"maxFreeze": described(ref("duration"), "How long the freeze may last; then the database is thawed and the action fails"),
			"proof":     described(ref("names"), "Outputs of do and undo that must be equal, so that the restore point is consistent"),
		}, "do", "undo", "maxFreeze")
	}
	return out
}

// byFunction adds what the function that is called asks of the arguments.
func byFunction(cat catalogue.Catalogue, s object) object {
	var all []any
	for _, f := range cat.Functions {
		then := object{"properties": object{"func": object{"description": f.Summary}, "args": ref("args." + f.Name)}}
		for _, a := range f.Args {
			if a.Required {
				then["required"] = []any{"args"}
			}
		}
		all = append(all, object{
			"if":   object{"required": []any{"func"}, "properties": object{"func": object{"const": f.Name}}},
			"then": then,
		})
	}
	s["allOf"] = append(all, object{"properties": object{"func": object{"enum": names(cat)}}})
	return s
}

func names(cat catalogue.Catalogue) []any {
	var out []any
	for _, n := range blueprints.FunctionNames(cat) {
		out = append(out, n)
	}
	return out
}

// arguments is the schema of a function's arguments.
func arguments(f catalogue.Function) object {
	props := object{}
	var all []any
	for _, a := range f.Args {
		s := argument(a)
		anyName := []any{object{"required": []any{a.Name}}}
		props[a.Name] = s
		for _, alias := range a.Aliases {
			props[alias] = s
			anyName = append(anyName, object{"required": []any{alias}})
		}
		if a.Required {
			all = append(all, object{"anyOf": anyName})
		}
	}
	out := object{"type": []any{"object", "null"}, "properties": props, "additionalProperties": false, "description": f.Summary}
	if len(all) > 0 {
		out["type"], out["allOf"] = "object", all
	}
	return out
}

const template = `\{\{`

func argument(a catalogue.Arg) object {
	doc := a.Description
	if a.Default != "" {
		doc += ". Default: " + a.Default
	}
	s := object{}
	switch a.Type {
	case catalogue.String:
		s = ref("scalar")
	case catalogue.Integer:
		s = object{"type": []any{"integer", "string"}, "pattern": template + `|^[+-]?[0-9]+$`}
	case catalogue.Number:
		s = object{"type": []any{"number", "string"}}
	case catalogue.Boolean:
		s = object{"type": []any{"boolean", "string"}, "pattern": template + `|^(1|0|t|f|T|F|true|false|True|False|TRUE|FALSE)$`}
	case catalogue.Duration:
		s = object{"type": "string", "pattern": template + `|^([0-9.]+(ns|us|µs|ms|s|m|h))+$`}
	case catalogue.List:
		s = object{"type": []any{"array", "string", "number", "boolean", "null"}, "items": ref("scalar")}
	case catalogue.Map:
		s = object{"type": []any{"object", "null"}, "additionalProperties": ref("scalar")}
	case catalogue.Object:
		s = object{"type": []any{"object", "array", "string", "null"}}
	}
	if len(a.Enum) > 0 {
		var pattern []string
		var examples []any
		for _, e := range a.Enum {
			pattern = append(pattern, anyCase(e))
			examples = append(examples, e)
		}
		s = object{"type": []any{"string", "number", "boolean"}, "pattern": template + "|^(" + strings.Join(pattern, "|") + ")$", "examples": examples}
	}
	return described(s, doc)
}

// anyCase is a pattern for a word in upper or lower case.
func anyCase(word string) string {
	var b strings.Builder
	for _, r := range word {
		switch lo, up := unicode.ToLower(r), unicode.ToUpper(r); {
		case lo != up:
			b.WriteString("[" + string(lo) + string(up) + "]")
		case unicode.IsDigit(r) || r == '_':
			b.WriteRune(r)
		default:
			b.WriteString(`\` + string(r))
		}
	}
	return b.String()
}

func retry() object {
	return closed(object{
		"maxAttempts":  object{"type": "integer", "minimum": 1, "description": "Attempts, the first included"},
		"backoff":      described(ref("duration"), "Wait before the second attempt; doubled after each"),
		"maxBackoff":   described(ref("duration"), "The longest wait"),
		"nonRetryable": described(ref("names"), "Kinds of errors that are not retried"),
		"exitCodes":    object{"type": "boolean", "description": "Retry a command that ended with a non-zero status"},
	})
}

func approval() object {
	return closed(object{
		"message":   text("What the people who are asked read"),
		"approvers": described(ref("names"), "Who may approve; anybody where there is none"),
		"fourEyes":  object{"type": "boolean", "description": "Not the one who asked for the run"},
		"count":     object{"type": "integer", "minimum": 1, "description": "How many must approve"},
		"timeout":   described(ref("duration"), "How long it can be given; then the run fails"),
		"optional":  object{"type": "boolean", "description": "A request may do without it"},
	})
}

func reference() object {
	return closed(object{
		"kind": text("Secret or ConfigMap"), "name": text("Name of the object"), "namespace": text("Namespace of the object"),
		"apiVersion": text("API version of the object"), "group": text("API group of the object"), "resource": text("Resource of the object"),
	}, "name")
}

func artifact() object {
	return closed(object{
		"keyValue":      described(ref("stringMap"), "Values by key; templates"),
		"kopiaSnapshot": text("A Kopia snapshot, as kando reports it; a template"),
	})
}
