package plan

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Values is a JSON object whose integers stay integers: they are decoded as
// int64, not float64, so that `replicas: 1000000` never renders as 1e+06.
type Values map[string]any

// UnmarshalJSON implements json.Unmarshaler.
func (v *Values) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return fmt.Errorf("decode values: %w", err)
	}
	for k, x := range m {
		m[k] = Exact(x)
	}
	*v = m
	return nil
}

// Exact replaces each json.Number in a decoded JSON value: by an int64 where it
// is an integer, else by a float64, else by its digits.
func Exact(x any) any {
	switch t := x.(type) {
	case json.Number:
		if i, err := t.Int64(); err == nil {
			return i
		}
		f, err := t.Float64()
		if err != nil {
			return t.String() // out of range of both: keep the digits
		}
		return f
	case map[string]any:
		for k, e := range t {
			t[k] = Exact(e)
		}
	case []any:
		for i, e := range t {
			t[i] = Exact(e)
		}
	}
	return x
}
