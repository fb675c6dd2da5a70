package blueprints

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"thaw/blueprints/plan"
)

// refuse is a schema loader that loads nothing: a blueprint may not make the
// planner read files or the network.
type refuse struct{}

var errRemote = errors.New("a parameter's schema may not refer to files or addresses")

func (refuse) Load(string) (any, error) { return nil, errRemote }

var english = message.NewPrinter(language.English)

// Compile compiles the parameter's schema.
func (p *Parameter) Compile() (*jsonschema.Schema, error) {
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(refuse{})
	c.AssertFormat()
	const url = "thaw:///parameter.json"
	doc, err := jsonValue(p.Schema)
	if err != nil {
		return nil, err
	}
	if err := c.AddResource(url, doc); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	s, err := c.Compile(url)
	if err != nil {
		var se *jsonschema.SchemaValidationError
		var ve *jsonschema.ValidationError
		if errors.As(err, &se) && errors.As(se.Err, &ve) {
			return nil, errors.New(strings.Join(leaves(ve), "; "))
		}
		return nil, errors.New(strings.ReplaceAll(err.Error(), url, ""))
	}
	return s, nil
}

// jsonValue is the value as a JSON decoder would give it.
func jsonValue(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("as JSON: %w", err)
	}
	out, err := jsonschema.UnmarshalJSON(strings.NewReader(string(b)))
	if err != nil {
		return nil, fmt.Errorf("as JSON: %w", err)
	}
	return out, nil
}

// leaves are the innermost complaints of a validation.
func leaves(ve *jsonschema.ValidationError) []string {
	if len(ve.Causes) == 0 {
		where := ""
		if len(ve.InstanceLocation) > 0 {
			where = strings.Join(ve.InstanceLocation, ".") + ": "
		}
		return []string{where + ve.ErrorKind.LocalizedString(english)}
	}
	var out []string
	for _, c := range ve.Causes {
		out = append(out, leaves(c)...)
	}
	return out
}

// Check validates a value. A text that stands for a number, a boolean, or JSON,
// as from a command line, is taken for it where the schema asks for one. It
// returns the value and what is wrong with it, without quoting it.
func (p *Parameter) Check(v any) (any, []string) {
	v = p.coerce(v)
	s, err := p.Compile()
	if err != nil {
		return v, []string{"its schema is wrong: " + err.Error()}
	}
	doc, err := jsonValue(v)
	if err != nil {
		return v, []string{err.Error()}
	}
	if err := s.Validate(doc); err != nil {
		var ve *jsonschema.ValidationError
		if errors.As(err, &ve) {
			return v, leaves(ve)
		}
		return v, []string{err.Error()}
	}
	return v, nil
}

func (p *Parameter) coerce(v any) any {
	s, ok := v.(string)
	if !ok {
		return v
	}
	switch p.Schema["type"] {
	case "integer":
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i
		}
	case "number":
		if i, err := strconv.ParseInt(s, 10, 64); err == nil {
			return i
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f
		}
	case "boolean":
		if b, err := strconv.ParseBool(s); err == nil {
			return b
		}
	case "array", "object":
		var out plan.Values // keeps integers
		if err := json.Unmarshal([]byte(`{"v":`+s+`}`), &out); err == nil {
			return out["v"]
		}
	}
	return v
}

// Zero is the value of an optional parameter that was not given, so that
// {{ if .Options.name }} can ask for it.
func (p *Parameter) Zero() any {
	if p.HasDefault {
		return p.Default
	}
	switch p.Schema["type"] {
	case "integer":
		return int64(0)
	case "number":
		return float64(0)
	case "boolean":
		return false
	case "array":
		return []any{}
	case "object":
		return map[string]any{}
	}
	return ""
}

// keywords of JSON Schema that a parameter may use. The library ignores what
// it does not know, so a misspelt `minimum` would check nothing.
var keywords = []string{
	"$comment", "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "const", "contains", "default", "deprecated",
	"dependentRequired", "description", "else", "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "if",
	"items", "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength",
	"minProperties", "minimum", "multipleOf", "not", "oneOf", "pattern", "patternProperties", "prefixItems", "properties",
	"propertyNames", "readOnly", "required", "then", "title", "type", "uniqueItems", "writeOnly",
}
