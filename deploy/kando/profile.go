package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

// parseProfile reads a location profile as `{{ toJson .Profile }}` writes it:
// Kanister's form, in which fields of others are passed over. Its errors
// (fault.User) repeat nothing of the text, which has credentials in it.
func parseProfile(text []byte) (templates.Profile, error) {
	var p templates.Profile
	switch text = bytes.TrimSpace(text); {
	case len(text) == 0:
		return p, fault.New(fault.User, "it is empty: write --profile '{{ toJson .Profile }}'")
	case string(text) == "null":
		return p, fault.New(fault.User, "it is null: the run has no location profile; name one")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	err := dec.Decode(&p)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errMore
		}
	}
	if err != nil {
		return templates.Profile{}, fault.New(fault.User, "it is no profile in JSON: %s; write --profile '{{ toJson .Profile }}', in single quotes", broken(err))
	}
	if err := location.Check(p); err != nil {
		return templates.Profile{}, err
	}
	return p, nil
}

var errMore = errors.New("something follows after its end")

// broken says what is wrong with a JSON, and where, without a value of it.
func broken(err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax) && syntax.Error() == "unexpected end of JSON input", errors.Is(err, io.ErrUnexpectedEOF):
		return "it breaks off"
	case errors.As(err, &syntax):
		return fmt.Sprintf("it goes wrong at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Sprintf("what is before byte %d has the wrong type: want %s", kind.Offset, kind.Type)
	case errors.Is(err, errMore):
		return errMore.Error()
	}
	return "a value of it cannot be read"
}
