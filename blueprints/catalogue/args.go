package catalogue

import (
	"fmt"
	"math"
	"reflect"
	"regexp"
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
		case ok && a.Type == Integer && !whole(v):
			faults = append(faults, fmt.Sprintf("argument %q is no integer", a.Name))
			delete(in, a.Name)
		case ok && a.Type == Duration && number(v):
			faults = append(faults, fmt.Sprintf("argument %q is no %s", a.Name, articles[Duration]))
			delete(in, a.Name)
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
		faults = append(faults, f.words(err)...)
	}
	if len(faults) > 0 {
		return fmt.Errorf("arguments of %s: %s", f.Name, strings.Join(faults, "; "))
	}
	return nil
}

// whole reports whether a value can be an integer without loss: the weak
// decoder would cut a fraction off, and count true as one.
func whole(v any) bool {
	switch t := v.(type) {
	case float64:
		return t == math.Trunc(t)
	case bool:
		return false
	}
	return true
}

// number reports whether a value is a number other than 0: as a duration it
// has no unit, and the decoder would take nanoseconds.
func number(v any) bool {
	switch reflect.ValueOf(v).Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Float64:
		return fmt.Sprint(v) != "0"
	}
	return false
}

// at is where the decoder's errors say which argument, and where in it.
var at = regexp.MustCompile(`'([^'.\[]+)([.\[][^']*)?'`)

// words tells the decoder's errors as a blueprint's author knows the arguments.
// They quote no value: it may be a secret.
func (f *Function) words(err error) (faults []string) {
	for _, line := range strings.Split(err.Error(), "\n") {
		m := at.FindStringSubmatch(line)
		if m == nil {
			continue // a headline
		}
		a, ok := f.Arg(m[1])
		if !ok {
			faults = append(faults, strings.TrimSpace(line))
			continue
		}
		want := articles[a.Type]
		if m[2] != "" {
			faults = append(faults, fmt.Sprintf("argument %q: %s is not what it must be", a.Name, m[1]+m[2]))
			continue
		}
		faults = append(faults, fmt.Sprintf("argument %q is no %s", a.Name, want))
	}
	if len(faults) == 0 {
		faults = []string{err.Error()}
	}
	return faults
}

// articles are the types in words.
var articles = map[Type]string{
	String: "string", Integer: "integer", Number: "number", Boolean: "boolean (true or false)", Duration: "duration, such as 90s or 1h30m",
	List: "list of strings", Map: "mapping of strings", Object: "mapping", Any: "value that it can take",
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if strings.EqualFold(l, s) {
			return true
		}
	}
	return false
}
