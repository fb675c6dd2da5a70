package catalogue

import "time"

// Kanister's functions, as its current release and the public ones before it
// declare them. They are known to the linter whether a worker runs them or not
// (Planned); a family that implements one replaces its entry here.

// How long one attempt may take. Kanister itself has no such limits, and waits
// for ever; a phase of a thaw.dev blueprint says its own.
const (
	shortCall = 10 * time.Minute
	dataCall  = 24 * time.Hour
)

// Kanister returns Kanister's functions.
func Kanister() []Function {
	var all []Function
	for _, l := range [][]Function{kanisterRDS(), kanisterKopia()} {
		all = append(all, l...)
	}
	return all
}

func planned(family, name, summary string, args any, f Function) Function {
	f.Name, f.Family, f.Summary, f.Planned = name, family, summary, true
	f.Args = Args(args)
	if f.Timeout == 0 {
		f.Timeout = shortCall
	}
	return f
}

func outputs(pairs ...string) []Output {
	var out []Output
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, Output{Name: pairs[i], Description: pairs[i+1]})
	}
	return out
}

// with returns the arguments of both structs.
func with(f Function, more any) Function {
	f.Args = append(f.Args, Args(more)...)
	return f
}
