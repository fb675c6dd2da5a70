package plan

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes as Go writes it ("90s").
type Duration time.Duration

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON implements json.Unmarshaler. A bare number is seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		p, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("duration %q: write it as 90s, 15m or 1h30m: %w", s, err)
		}
		*d = Duration(p)
		return nil
	}
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return fmt.Errorf("duration %s: write it as \"90s\", \"15m\" or \"1h30m\"", b)
	}
	*d = Duration(f * float64(time.Second))
	return nil
}

// UnmarshalText implements encoding.TextUnmarshaler, for YAML and outputs.
func (d *Duration) UnmarshalText(b []byte) error {
	p, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q: write it as 90s, 15m or 1h30m: %w", b, err)
	}
	*d = Duration(p)
	return nil
}

// D returns it as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }
