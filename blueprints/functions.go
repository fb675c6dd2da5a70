package blueprints

import "thaw/blueprints/catalogue"

// FunctionNames lists the functions of a catalogue.
func FunctionNames(c catalogue.Catalogue) []string {
	names := make([]string, len(c.Functions))
	for i, f := range c.Functions {
		names[i] = f.Name
	}
	return names
}
