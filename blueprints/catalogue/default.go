package catalogue

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"
)

//go:embed catalogue.json
var golden []byte

var parsed = sync.OnceValue(func() Catalogue {
	var c Catalogue
	if err := json.Unmarshal(golden, &c); err != nil {
		// It is embedded and tested: a build with a broken one is no build.
		panic(fmt.Sprintf("catalogue.json: %v", err))
	}
	return New(c.Functions)
})

// Default returns the catalogue of this release, from catalogue.json. Callers
// must not change it.
func Default() Catalogue { return parsed() }

// JSON is how catalogue.json is written.
func (c Catalogue) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the catalogue: %w", err)
	}
	return append(b, '\n'), nil
}
