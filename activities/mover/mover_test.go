package mover

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/fault"
)

// A request comes from a worker, perhaps of another release: whatever is in it,
// it is read as it was written, or it is the user's error, which repeats no
// secret.
func FuzzRead(f *testing.F) {
	f.Add(`{"do":"save","profile":{"Location":{"type":"s3Compliant","bucket":"b"},"Credential":{"Type":"keyPair","KeyPair":{"ID":"i","Secret":"s"}}},"repository":"shop/db","passphrase":"p","path":"/data","source":"/db","tag":"1"}`)
	f.Add(`{"do":"delete","delete":[{"repository":"a","id":"1"},{"repository":"b","tag":"2"}],"reclaim":true}`)
	f.Add(`{"do":"restore","tag":"1","target":"/","below":"../.."}`)
	f.Add(`{"do":"save","unknown":1}`)
	f.Add(`{"do":"save"} {"do":"delete"}`)
	f.Add(`{"do":"sa`)
	f.Add(`[]`)
	f.Add("\x00")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := Read(strings.NewReader(text))
		if err != nil {
			require.Nil(t, q)
			require.Equal(t, fault.User, fault.Of(err), "%v", err)
			return
		}
		once, err := json.Marshal(q)
		require.NoError(t, err)
		again, err := Read(bytes.NewReader(once))
		require.NoError(t, err)
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}

func TestARequestIsReadStrictly(t *testing.T) {
	const secret = "secret-that-nobody-may-see"
	for _, c := range []struct{ name, text, says string }{
		{"nothing", "", "request"},
		{"cut off", `{"do":"save","passphrase":"` + secret, "request"},
		{"an unknown field", `{"do":"save","passphrase":"` + secret + `","more":1}`, `"more"`},
		{"another type", `{"do":"save","passphrase":{"` + secret + `":1}}`, "passphrase"},
		{"two requests", `{"do":"save"} {"do":"delete"}`, "more than one"},
		{"what is no JSON behind it", `{"do":"save"} x`, "more than one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(c.text))
			require.ErrorContains(t, err, c.says)
			require.Equal(t, fault.User, fault.Of(err))
			require.NotContains(t, err.Error(), secret)
		})
	}
	q, err := Read(strings.NewReader("{\"do\":\"check\"}\n"))
	require.NoError(t, err)
	require.Equal(t, Check, q.Do)
}
