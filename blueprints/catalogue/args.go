package catalogue

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// Args reads the arguments of a function off its argument struct. Each field
// has the tags
//
//	arg:"name"            or "name,required", "name,raw"
//	doc:"what it is"
//	default:"value"       as a blueprint would spell it
//	enum:"a|b"            allowed values
//	alias:"other|names"   names that public blueprints use
//	type:"object"         where the Go type does not tell (any, nested)
//
// An embedded struct, tagged arg:",squash", lends its fields: what several
// functions take is declared once. It panics on a field without arg or doc: that is a bug of the declaration,
// and the catalogue's golden test meets it.
func Args(s any) []Arg {
	t := reflect.TypeOf(s)
	args := make([]Arg, 0, t.NumField())
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			args = append(args, Args(reflect.Zero(f.Type).Interface())...)
			continue
		}
		name, flags, _ := strings.Cut(f.Tag.Get("arg"), ",")
		a := Arg{Name: name, Description: f.Tag.Get("doc"), Default: f.Tag.Get("default"), Type: Type(f.Tag.Get("type"))}
		if a.Name == "" || a.Description == "" {
			panic(fmt.Sprintf("catalogue: field %s.%s needs the tags arg and doc", t.Name(), f.Name))
		}
		a.Required = strings.Contains(flags, "required")
		a.Raw = strings.Contains(flags, "raw")
		if e := f.Tag.Get("enum"); e != "" {
			a.Enum = strings.Split(e, "|")
		}
		if e := f.Tag.Get("alias"); e != "" {
			a.Aliases = strings.Split(e, "|")
		}
		if a.Type == "" {
			a.Type = typeOf(f.Type)
		}
		args = append(args, a)
	}
	return args
}

func typeOf(t reflect.Type) Type {
	if t == reflect.TypeFor[time.Duration]() {
		return Duration
	}
	switch t.Kind() {
	case reflect.String:
		return String
	case reflect.Int, reflect.Int32, reflect.Int64:
		return Integer
	case reflect.Float64:
		return Number
	case reflect.Bool:
		return Boolean
	case reflect.Slice:
		if t.Elem().Kind() == reflect.String {
			return List
		}
		return Object
	case reflect.Map:
		if t.Elem().Kind() == reflect.String {
			return Map
		}
		return Object
	case reflect.Struct, reflect.Pointer:
		return Object
	default:
		return Any
	}
}

// Decode decodes rendered arguments into the struct that `into` points to,
// weakly as Kanister does, with the declared defaults and aliases applied.
// Every argument that is missing, unknown or of a wrong type is in the error.
func (f *Function) Decode(args map[string]any, into any) error {
	var faults []string
	in := make(map[string]any, len(f.Args))
	for k, v := range args {
		a, ok := f.Arg(k)
		if !ok {
			faults = append(faults, fmt.Sprintf("unknown argument %q", k))
			continue
		}
		in[a.Name] = v
	}
	for _, a := range f.Args {
		v, ok := in[a.Name]
		switch {
		case ok && len(a.Enum) > 0:
			if s := fmt.Sprint(v); !contains(a.Enum, s) {
				faults = append(faults, fmt.Sprintf("argument %q is %q; want one of %s", a.Name, s, strings.Join(a.Enum, ", ")))
			}
		case !ok && a.Required:
			faults = append(faults, fmt.Sprintf("argument %q is required", a.Name))
		case !ok && a.Default != "":
			in[a.Name] = a.Default
		}
	}
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, TagName: "arg", WeaklyTypedInput: true,
		DecodeHook: mapstructure.StringToTimeDurationHookFunc(),
	})
	if err != nil {
		return fmt.Errorf("decode arguments of %s: %w", f.Name, err)
	}
	if err := dec.Decode(in); err != nil {
		faults = append(faults, err.Error())
	}
	if len(faults) > 0 {
		return fmt.Errorf("arguments of %s: %s", f.Name, strings.Join(faults, "; "))
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if strings.EqualFold(l, s) {
			return true
		}
	}
	return false
}
