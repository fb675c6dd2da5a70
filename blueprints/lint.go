package blueprints

import "thaw/blueprints/catalogue"

// Lint checks a blueprint against the functions that there are.
func Lint(b *Blueprint, c catalogue.Catalogue) Faults { return nil }
