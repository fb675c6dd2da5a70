package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/temporal"
)

func TestJSONOr(t *testing.T) {
	for in, want := range map[string]any{
		"3": int64(3), "true": true, `"3"`: "3", "[1,2]": []any{int64(1), int64(2)}, "": "", "007": "007",
		"a=b": "a=b", `1,"w":2`: `1,"w":2`, "3 4": "3 4", "{}": map[string]any{},
	} {
		assert.Equal(t, want, jsonOr(in), in)
	}
}

func TestACancelledRunSaysWhatItLeft(t *testing.T) {
	err := failure("r", temporal.NewCanceledError("shop.backup of x: cancelled; left behind: a"))
	assert.ErrorContains(t, err, "left behind: a")
}
