package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/temporal"

	"thaw/blueprints/plan"
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

func TestAProfileIsNamedByReference(t *testing.T) {
	for text, want := range map[string]plan.Reference{
		"s3":             {Name: "s3"},
		"kanister/s3":    {Namespace: "kanister", Name: "s3"},
		"secret:shop/s3": {Kind: "secret", Namespace: "shop", Name: "s3"},
	} {
		f := &runFlags{target: "sqlite:/x", profile: text}
		req, err := f.request("a.b")
		assert.NoError(t, err)
		assert.Equal(t, &want, req.Profile)
	}
}
