package templates

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	texttemplate "text/template"

	"github.com/Masterminds/sprig/v3"
)

// Refusal is a function, or a use of one, that templates may not have.
type Refusal struct{ Message string }

func (e *Refusal) Error() string { return e.Message }

// refused are functions of sprig that never run here, each with its reason.
var refused = map[string]string{
	"env":            "it would read the worker's environment, which holds credentials",
	"expandenv":      "it would read the worker's environment, which holds credentials",
	"getHostByName":  "it would look up names from the worker",
	"bcrypt":         "it is not available in FIPS mode, so Kanister refuses it too",
	"derivePassword": "it is not available in FIPS mode, so Kanister refuses it too",
	"htpasswd":       "it is not available in FIPS mode, so Kanister refuses it too",
	"genPrivateKey":  "it is not available in FIPS mode, so Kanister refuses it too",
}

// Refused returns why a function never runs, or "".
func Refused(name string) string { return refused[name] }

var base = sync.OnceValue(func() map[string]any {
	m := map[string]any(sprig.TxtFuncMap())
	// The built-in functions that make text are metered as sprig's are.
	m["print"], m["printf"], m["println"] = fmt.Sprint, fmt.Sprintf, fmt.Sprintln
	m["html"], m["js"], m["urlquery"] = texttemplate.HTMLEscaper, texttemplate.JSEscaper, texttemplate.URLQueryEscaper
	// What kubectl's templates have besides (Kanister's WaitV2 is one of them).
	m["base64decode"], m["exists"] = m["b64dec"], exists
	for name, why := range refused {
		if why == "" {
			delete(m, name)
			continue
		}
		m[name] = func(...any) (string, error) {
			return "", &Refusal{fmt.Sprintf("function %q is refused: %s", name, why)}
		}
	}
	return m
})

// FuncNames lists the functions of templates, sorted.
var FuncNames = sync.OnceValue(func() []string {
	names := slices.Collect(maps.Keys(base()))
	names = append(names, "and", "or", "not", "len", "index", "call", "eq", "ne", "lt", "le", "gt", "ge")
	slices.Sort(names)
	return slices.Compact(names)
})

// stubs is what Parse needs: the names.
var stubs = sync.OnceValue(func() texttemplate.FuncMap {
	m := maps.Clone(base())
	m[tick] = func() string { return "" }
	m[enter] = func() string { return "" }
	return m
})

var errWork = errors.New("the template takes too long to render")

func (w *Budget) spend(n int) {
	w.left -= n
	if w.left < 0 {
		// text/template turns a panic of a function into its error.
		panic(&Refusal{errWork.Error() + "; shorten its loops"})
	}
}

// funcs returns the functions of that template, metered.
func (w *Budget) funcs(names map[string]bool) texttemplate.FuncMap {
	m := texttemplate.FuncMap{
		tick:  func() string { w.spend(costCall); return "" },
		enter: func() string { w.spend(costTemplate); return "" },
	}
	for name := range names {
		if f, ok := base()[name]; ok {
			m[name] = w.meter(name, f)
		}
	}
	return m
}

// meter wraps a function: its arguments are checked before where its result
// could be far larger than they are, and its result is weighed after.
func (w *Budget) meter(name string, f any) any {
	fn := reflect.ValueOf(f)
	guard := guards[name]
	cost := costCall
	if strings.HasPrefix(name, "gen") || strings.HasPrefix(name, "encrypt") {
		cost = costCrypto
	}
	return reflect.MakeFunc(fn.Type(), func(in []reflect.Value) []reflect.Value {
		w.spend(cost)
		args := flatten(in, fn.Type().IsVariadic())
		for _, a := range args {
			w.spend(weigh(a))
		}
		if guard != nil {
			if size := guard(args); size > maxResult {
				panic(&Refusal{fmt.Sprintf("function %q would return more than %d MiB", name, maxResult>>20)})
			}
		}
		var out []reflect.Value
		if fn.Type().IsVariadic() {
			out = fn.CallSlice(in)
		} else {
			out = fn.Call(in)
		}
		size := weigh(out[0])
		if size > maxResult {
			panic(&Refusal{fmt.Sprintf("function %q returned more than %d MiB", name, maxResult>>20)})
		}
		w.spend(size)
		return out
	}).Interface()
}

func flatten(in []reflect.Value, variadic bool) []reflect.Value {
	if !variadic || len(in) == 0 {
		return in
	}
	args := slices.Clone(in[:len(in)-1])
	last := in[len(in)-1]
	for i := range last.Len() {
		args = append(args, last.Index(i))
	}
	return args
}

// weigh estimates the size of a value as if it were printed; it stops past
// maxResult, so values that contain themselves have an end too.
func weigh(v reflect.Value) int {
	size := 0
	var visit func(v reflect.Value, depth int)
	visit = func(v reflect.Value, depth int) {
		size += 16
		if depth > maxNest {
			size = maxResult + 1
		}
		if size > maxResult {
			return
		}
		switch v.Kind() {
		case reflect.String:
			size += v.Len()
		case reflect.Slice, reflect.Array:
			if k := v.Type().Elem().Kind(); k == reflect.Uint8 {
				size += v.Len()
				return
			}
			for i := 0; i < v.Len() && size <= maxResult; i++ {
				visit(v.Index(i), depth+1)
			}
		case reflect.Map:
			for it := v.MapRange(); it.Next() && size <= maxResult; {
				visit(it.Key(), depth+1)
				visit(it.Value(), depth+1)
			}
		case reflect.Pointer, reflect.Interface:
			if !v.IsNil() {
				visit(v.Elem(), depth+1)
			}
		case reflect.Struct:
			for i := 0; i < v.NumField() && size <= maxResult; i++ {
				visit(v.Field(i), depth+1)
			}
		}
	}
	if v.IsValid() {
		visit(v, 0)
	}
	return size
}

// guards estimate the size of what a function would return, for those whose
// result can be far larger than their arguments.
var guards = map[string]func(args []reflect.Value) int{
	"repeat":  func(a []reflect.Value) int { return times(num(a, 0), len(str(a, 1))) },
	"indent":  indentSize,
	"nindent": indentSize,
	"until":   func(a []reflect.Value) int { return times(num(a, 0), 16) },
	"untilStep": func(a []reflect.Value) int {
		return times(span(num(a, 0), num(a, 1), num(a, 2)), 16)
	},
	"seq": func(a []reflect.Value) int {
		switch len(a) {
		case 1:
			return times(span(1, num(a, 0), 1), 24)
		case 2:
			return times(span(num(a, 0), num(a, 1), 1), 24)
		case 3:
			return times(span(num(a, 0), num(a, 2), num(a, 1)), 24)
		}
		return 0
	},
	"replace": func(a []reflect.Value) int {
		return len(str(a, 2)) + times(strings.Count(str(a, 2), str(a, 0)), len(str(a, 1)))
	},
	"printf":   formatSize,
	"join":     func(a []reflect.Value) int { return times(weigh(at(a, 1))/16, len(text(at(a, 0)))) },
	"wrapWith": func(a []reflect.Value) int { return times(len(str(a, 2)), 1+len(str(a, 1))) },
	// How often a pattern matches is not known before; once a byte at most.
	"regexReplaceAll":            regexSize,
	"mustRegexReplaceAll":        regexSize,
	"regexReplaceAllLiteral":     regexSize,
	"mustRegexReplaceAllLiteral": regexSize,
	"randAlphaNum":               func(a []reflect.Value) int { return num(a, 0) },
	"randAlpha":                  func(a []reflect.Value) int { return num(a, 0) },
	"randAscii":                  func(a []reflect.Value) int { return num(a, 0) },
	"randNumeric":                func(a []reflect.Value) int { return num(a, 0) },
	"randBytes":                  func(a []reflect.Value) int { return num(a, 0) },
}

func indentSize(a []reflect.Value) int {
	return len(str(a, 1)) + times(1+strings.Count(str(a, 1), "\n"), num(a, 0))
}

func regexSize(a []reflect.Value) int {
	re, err := regexp.Compile(str(a, 0))
	if err != nil {
		return 0 // the function says so itself
	}
	src, repl := str(a, 1), str(a, 2)
	matches := len(re.FindAllStringIndex(src, -1))
	return len(src) + times(matches, len(repl)) + times(strings.Count(repl, "$"), len(src))
}

// formatSize adds up the widths that a format asks for.
func formatSize(a []reflect.Value) int {
	size := 0
	for _, m := range widths.FindAllString(str(a, 0), -1) {
		n, err := strconv.Atoi(m)
		if err != nil {
			n = 1e6 // `*`, or a number that fmt refuses
		}
		size += min(n, 1e6)
	}
	return size
}

var widths = regexp.MustCompile(`\*|[0-9]+`)

func at(a []reflect.Value, i int) reflect.Value {
	if i >= len(a) {
		return reflect.Value{}
	}
	v := a[i]
	for v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	return v
}

func text(v reflect.Value) string {
	if v.IsValid() && v.Kind() == reflect.String {
		return v.String()
	}
	return ""
}

func str(a []reflect.Value, i int) string { return text(at(a, i)) }

func num(a []reflect.Value, i int) int {
	if v := at(a, i); v.IsValid() && v.CanInt() {
		return int(v.Int())
	}
	return 0
}

// times multiplies without overflow; negative counts are their absolute, since
// sprig's until counts down too.
func times(n, size int) int {
	if n < 0 {
		n = -n
	}
	if n < 0 || (size > 0 && n > (maxResult+1)/size) {
		return maxResult + 1
	}
	return n * size
}

func span(start, stop, step int) int {
	if step == 0 {
		return 0
	}
	if step < 0 {
		if step = -step; step < 0 {
			return 1
		}
	}
	n := float64(stop) - float64(start)
	if n < 0 {
		n = -n
	}
	return int(min(n/float64(step)+1, float64(maxResult+1)))
}

// exists reports whether an object has a field, or a list an element, below
// these names and numbers.
func exists(v any, path ...any) bool {
	for _, at := range path {
		switch t := v.(type) {
		case map[string]any:
			name, ok := at.(string)
			if !ok {
				return false
			}
			if v, ok = t[name]; !ok {
				return false
			}
		case []any:
			i, ok := at.(int)
			if !ok || i < 0 || i >= len(t) {
				return false
			}
			v = t[i]
		default:
			return false
		}
	}
	return true
}
