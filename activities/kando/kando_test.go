package kando

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, p *Parser, text string, size int) (map[string]any, error) {
	t.Helper()
	for len(text) > 0 {
		n := min(size, len(text))
		w, err := p.Write([]byte(text[:n]))
		require.NoError(t, err)
		require.Equal(t, n, w)
		text = text[n:]
	}
	return p.Close()
}

func TestParser(t *testing.T) {
	long := strings.Repeat("x", 200<<10)
	cases := []struct {
		name, text string
		want       map[string]any
		err        string
	}{
		{"nothing", "", map[string]any{}, ""},
		{"no output", "hello\nworld", map[string]any{}, ""},
		{"one", Marker + ` {"key":"a","value":"b"}` + "\n", map[string]any{"a": "b"}, ""},
		{"without a last newline", Marker + ` {"key":"a","value":"b"}`, map[string]any{"a": "b"}, ""},
		{"with a carriage return", Marker + ` {"key":"a","value":"b"}` + "\r\n", map[string]any{"a": "b"}, ""},
		{"after a logger's prefix", "12:00 INFO " + Marker + `{"key":"a","value":"b"}` + "\nmore", map[string]any{"a": "b"}, ""},
		{"the last of a key wins", Marker + `{"key":"a","value":"1"}` + "\n" + Marker + `{"key":"a","value":"2"}`, map[string]any{"a": "2"}, ""},
		{"between lines of 200 KiB", long + "\n" + Marker + `{"key":"a","value":"b"}` + "\n" + long, map[string]any{"a": "b"}, ""},
		{"a value of 200 KiB", Marker + `{"key":"a","value":"` + long + `"}` + "\n", map[string]any{"a": long}, ""},
		{"typed values", Marker + `{"key":"n","value":9007199254740993}` + "\n" + Marker + `{"key":"t","value":true}` + "\n" + Marker + `{"key":"z","value":null}`, map[string]any{"n": int64(9007199254740993), "t": true, "z": ""}, ""},
		{"bad JSON", Marker + `{"key":"a","val` + "\n", nil, "no JSON"},
		{"two values in a line", Marker + `{"key":"a","value":"b"} {"key":"c","value":"d"}` + "\n", nil, "alone on its line"},
		{"no key", Marker + `{"value":"b"}` + "\n", nil, "alone on its line"},
		{"a key with a dot", Marker + `{"key":"a.b","value":"b"}` + "\n", nil, `"a.b"`},
		{"too much", Marker + `{"key":"a","value":"` + strings.Repeat("x", MaxBytes) + `"}` + "\n", nil, "too large"},
	}
	for _, c := range cases {
		for _, size := range []int{1, 3, 7, 64, 32 << 10, 1 << 20} {
			t.Run(fmt.Sprintf("%s, in pieces of %d", c.name, size), func(t *testing.T) {
				if size == 1 && len(c.text) > 1<<20 {
					t.Skip("slow")
				}
				got, err := parse(t, &Parser{}, c.text, size)
				if c.err != "" {
					require.ErrorContains(t, err, c.err)
					return
				}
				require.NoError(t, err)
				require.Equal(t, c.want, got)
			})
		}
	}
}

func TestOtherLinesAreHandedOn(t *testing.T) {
	var lines []string
	p := &Parser{Line: func(l []byte) { lines = append(lines, string(l)) }}
	_, err := parse(t, p, "one\n"+Marker+`{"key":"a","value":"b"}`+"\ntwo\r\nthree", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two", "three"}, lines)
}

func FuzzParserIsTheSameInAnyPieces(f *testing.F) {
	f.Add("a\n"+Marker+` {"key":"a","value":"b"}`+"\n", 3)
	f.Add(Marker+Marker+`{"key":"a","value":1}`, 1)
	f.Add("###Phase-out"+Marker+"{}", 5)
	f.Add(Marker+` {"key":"a","val`+Marker+` {"key":"b","value":"c"}`+"\n"+`ue":"d"}`+"\n", 17) // interleaved
	f.Add(Marker+` {"key":"a","value":"b"}`+"\r\n"+Marker+` {"key":"a","value":"`, 40)          // cut off
	f.Add(strings.Repeat("x", MaxLine+10)+Marker[:9]+"\n"+Marker+`{"key":"a","value":[1,{"b":2}]}`, MaxLine)
	f.Fuzz(func(t *testing.T, text string, size int) {
		if size <= 0 || size > 1<<16 {
			t.Skip()
		}
		read := func(size int) (map[string]any, []string, error) {
			var lines []string
			p := &Parser{Max: 1 << 10, Line: func(l []byte) { lines = append(lines, string(l)) }}
			out, err := parse(t, p, text, size)
			return out, lines, err
		}
		whole, wholeLines, err1 := read(max(len(text), 1))
		pieces, lines, err2 := read(size)
		require.Equal(t, err1 == nil, err2 == nil, "%v %v", err1, err2)
		if err1 == nil {
			require.Equal(t, whole, pieces)
			require.Equal(t, wholeLines, lines)
		}
	})
}
