// Package docs holds what of the documentation programs read.
package docs

import _ "embed"

// RestorePointSchema is the JSON Schema of a restore point's record.
//
//go:embed restorepoint.schema.json
var RestorePointSchema []byte
