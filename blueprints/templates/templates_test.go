package templates_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"thaw/blueprints/templates"
	"thaw/internal/testcorpus"
)

func run(t *testing.T, text string, p *templates.Params) (string, error) {
	t.Helper()
	tm, err := templates.Parse(text)
	require.NoError(t, err)
	return tm.Execute(p, "error", templates.NewBudget())
}

// No template may hang a worker or exhaust its memory.
func TestLimits(t *testing.T) {
	for name, text := range map[string]string{
		"a loop over a large number":      `{{ range 1000000000000 }}{{ end }}`,
		"loops in loops":                  `{{ range 10000 }}{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}{{ end }}`,
		"a loop with text":                `{{ range 100000000 }}x{{ end }}`,
		"until":                           `{{ range until 1000000000 }}{{ end }}`,
		"until below zero":                `{{ until -1000000000 }}`,
		"untilStep":                       `{{ untilStep 0 2000000000 1 }}`,
		"seq":                             `{{ seq 1 2000000000 }}`,
		"seq with a step":                 `{{ seq 0 1 2000000000 }}`,
		"repeat":                          `{{ repeat 1000000000 "x" }}`,
		"repeat of a repeat":              `{{ repeat 100000 (repeat 100000 "x") }}`,
		"replace that grows":              `{{ $a := repeat 100000 "x" }}{{ replace "x" $a $a }}`,
		"regexReplaceAll that grows":      `{{ $a := repeat 100000 "x" }}{{ regexReplaceAll "x" $a $a }}`,
		"join that grows":                 `{{ $a := repeat 1000000 "x" }}{{ join $a (until 10000) }}`,
		"wrapWith that grows":             `{{ $a := repeat 100000 "x" }}{{ wrapWith 1 $a $a }}`,
		"indent":                          `{{ indent 1000000000 "x" }}`,
		"nindent of many lines":           `{{ nindent 100000 (repeat 100000 "\n") }}`,
		"printf with wide columns":        `{{ printf "` + strings.Repeat("%999999d", 1000) + `" }}`,
		"randAlphaNum":                    `{{ randAlphaNum 1000000000 }}`,
		"text that doubles":               `{{ $a := "x" }}{{ range until 64 }}{{ $a = print $a $a }}{{ end }}`,
		"lists that double":               `{{ $a := list 1 }}{{ range until 64 }}{{ $a = list $a $a }}{{ end }}{{ $a }}`,
		"a dict that holds itself":        `{{ $a := dict }}{{ $_ := set $a "a" $a }}{{ $a }}`,
		"dicts that hold each other":      `{{ $a := dict }}{{ $b := dict "a" $a }}{{ $_ := set $a "b" $b }}{{ $b }}`,
		"JSON that doubles":               `{{ $a := "\"" }}{{ range until 40 }}{{ $a = toJson $a }}{{ end }}{{ $a }}`,
		"a template that calls itself":    `{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`,
		"a template that calls two":       `{{ define "a" }}{{ template "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`,
		"keys for ever":                   `{{ range 1000 }}{{ $_ := genSelfSignedCert "a" nil nil 1 }}{{ end }}`,
		"more output than a value may be": `{{ $a := repeat 1000000 "x" }}{{ range 100 }}{{ $a }}{{ end }}`,
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := run(t, text, &templates.Params{})
			require.Error(t, err)
			require.Less(t, time.Since(start), 20*time.Second)
		})
	}
}

func TestNestingIsRefusedBeforeItIsParsed(t *testing.T) {
	for name, text := range map[string]string{
		"parentheses": "{{ " + strings.Repeat("(", 100000) + " }}",
		"blocks":      strings.Repeat("{{ if true }}", 50000) + strings.Repeat("{{ end }}", 50000),
		"size":        "{{ . }}" + strings.Repeat("x", templates.MaxText),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := templates.Parse(text)
			var e *templates.Error
			require.ErrorAs(t, err, &e)
		})
	}
}

func TestWhatBlueprintsUseWorks(t *testing.T) {
	p := &templates.Params{
		Time: "2026-01-02T03:04:05.000000006Z",
		StatefulSet: &templates.Workload{Name: "db-main", Namespace: "shop", Pods: []string{"db-0", "db-1"},
			PersistentVolumeClaims: map[string]map[string]string{"db-0": {"data-db-0": "/data"}}},
		Options: map[string]any{"n": int64(1000000), "pitr": "x"},
		Secrets: map[string]templates.Secret{"admin": {Data: map[string][]byte{"password": []byte("pä$s")}}},
		Object:  map[string]any{"data": map[string]any{"key": "c2VjcmV0"}, "spec": map[string]any{"replicas": int64(3)}},
		Profile: &templates.Profile{Location: templates.Location{Type: "s3Compliant", Bucket: "b"},
			Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: "i", Secret: "s"}}},
	}
	for text, want := range map[string]string{
		`{{ toDate "2006-01-02T15:04:05.999999999Z07:00" .Time | date "2006-01-02T15-04-05" }}`:                                   "2026-01-02T03-04-05",
		`{{ .StatefulSet.Name | upper | replace "-" "_" }}`:                                                                       "DB_MAIN",
		`{{ range .StatefulSet.Pods }} {{.}}{{end}}`:                                                                              " db-0 db-1",
		`{{- range $key, $_ := index .StatefulSet.PersistentVolumeClaims (index .StatefulSet.Pods 0) -}}{{$key}}{{break}}{{end}}`: "data-db-0",
		`{{ .Secrets.admin.Data.password | toString }}`:                                                                           "pä$s",
		`{{ index .Secrets.admin.Data "password" | toString | quote }}`:                                                           `"pä$s"`,
		`{{ .Object.data.key | toString | b64dec }}`:                                                                              "secret",
		`{{ .Options.n }}`:                                                       "1000000",
		`{{ len .StatefulSet.Pods }}`:                                            "2",
		`{{ if .Deployment }}d{{ else }}no{{ end }}`:                             "no",
		`{{ toJson .Profile.Location }}`:                                         `{"type":"s3Compliant","bucket":"b","endpoint":"","prefix":"","region":""}`,
		`{{ if eq .Options.pitr "x" }}{{ .Object.spec.replicas }}{{ end }}`:      "3",
		`{{ define "a" }}[{{ . }}]{{ end }}{{ template "a" .StatefulSet.Name }}`: "[db-main]",
		`{{ range $i := until 3 }}{{ $i }}{{ end }}{{ repeat 3 "ab" }}{{ join "," (list 1 2) }}{{ printf "%03d" 7 }}{{ indent 2 "x" }}{{ default "d" "" }}`: "012ababab1,2007  xd",
		`{{ genPrivateKey }}`: "",
	} {
		if strings.Contains(text, "genPrivateKey") {
			_, err := run(t, text, p)
			require.ErrorContains(t, err, "FIPS")
			continue
		}
		got, err := run(t, text, p)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestRefusedFunctions(t *testing.T) {
	t.Setenv("THAW_TEST_SECRET", "hush")
	for _, text := range []string{`{{ env "THAW_TEST_SECRET" }}`, `{{ expandenv "$THAW_TEST_SECRET" }}`, `{{ getHostByName "localhost" }}`,
		`{{ bcrypt "a" }}`, `{{ derivePassword 1 "long" "a" "b" "c" }}`, `{{ htpasswd "a" "b" }}`, `{{ genPrivateKey "dsa" }}`} {
		_, err := run(t, text, &templates.Params{})
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "hush")
		var r *templates.Refusal
		require.ErrorAs(t, err, &r, text)
	}
	_, err := templates.Parse(`{{ buildCustomCert "a" "b" }}`)
	require.NoError(t, err, "the rest of sprig is there")
}

// Errors are read by people who may not see secrets.
func TestErrorsQuoteNoValue(t *testing.T) {
	p := &templates.Params{
		Secrets: map[string]templates.Secret{"s": {Data: map[string][]byte{"k": []byte("hunter2")}}},
		Options: map[string]any{"m": map[string]any{"hunter2": 1}},
	}
	for _, text := range []string{
		`{{ fail (.Secrets.s.Data.k | toString) }}`,
		`{{ .Secrets.s.Data.k | toString | atoi | until | first | fail }}`,
		`{{ mustRegexMatch (print (.Secrets.s.Data.k | toString) "[") "a" }}`,
		`{{ mustToDate "2006" (.Secrets.s.Data.k | toString) }}`,
		`{{ mustFromJson (.Secrets.s.Data.k | toString) }}`,
		`{{ semver (.Secrets.s.Data.k | toString) }}`,
		`{{ index .Options (.Secrets.s.Data.k | toString) "x" "y" }}`,
		`{{ .Options.m.nothing }}`,
		`{{ .Secrets.s.Data.k.nothing }}`,
		`{{ lt (.Secrets.s.Data.k | toString) 1 }}`,
		`{{ template "x" }}{{ define "x" }}{{ fail "hunter2" }}{{ end }}`,
	} {
		tm, err := templates.Parse(text)
		require.NoError(t, err, text)
		_, err = tm.Execute(p, "error", templates.NewBudget())
		if err == nil {
			continue
		}
		message := err.Error()
		if !strings.Contains(text, "hunter2") { // what the author wrote may be repeated
			require.NotContains(t, message, "hunter2", text)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			if !strings.Contains(text, "hunter2") {
				require.NotContains(t, e.Error(), "hunter2", text)
			}
		}
		require.Regexp(t, regexp.MustCompile(`^\{\{ .* \}\}: \S`), message, text)
	}
}

func TestRefs(t *testing.T) {
	for text, want := range map[string]string{
		`{{ .Phases.a.Output.b }}`:                                              ".Phases.a.Output.b",
		`{{ index .Phases "a" "Output" "b" | toString }}`:                       ".Phases.a.Output.b",
		`{{ (index .Phases "a").Output.b }}`:                                    ".Phases.a.Output.b",
		`{{ index .Phases.a.Secrets.s.Data "k" | toString }}`:                   ".Phases.a.Secrets.s.Data.k",
		`{{ $p := .Phases.a }}{{ $p.Output.b }}`:                                ".Phases.a .Phases.a.Output.b",
		`{{ with .Phases.a }}{{ .Output.b }}{{ $.Time }}{{ end }}`:              ".Phases.a .Phases.a.Output.b .Time",
		`{{ range $k, $v := .Object.spec.list }}{{ $v.name }}{{ $k }}{{ end }}`: ".Object.spec.list .Object.spec.list.*.name",
		`{{ range .Object.spec.list }}{{ .name }}{{ end }}`:                     ".Object.spec.list .Object.spec.list.*.name",
		`{{ (index .Object.spec.nodeSets 0).count }}`:                           ".Object.spec.nodeSets.0.count",
		`{{ if .A }}{{ .B }}{{ else if .C }}{{ .D }}{{ end }}`:                  ".A .B .C .D",
		`{{ index .Options .Time }}`:                                            ".Time .Options.*",
		`{{ get .Options "a" }}{{ hasKey .Options "b" }}`:                       ".Options.a .Options",
		`{{ define "x" }}{{ .inside }}{{ end }}{{ template "x" .Options }}`:     ".Options",
		`{{ default .Options.a (.Options.b | upper) }}`:                         ".Options.a .Options.b",
		`{{ len .StatefulSet.Pods }}`:                                           ".StatefulSet.Pods",
		`{{ printf "%s" .Time | upper | quote }}`:                               ".Time",
		`plain`: "",
		`{{ range $i := until 3 }}{{ index $.StatefulSet.Pods $i }}{{ end }}`:               ".StatefulSet.Pods.*",
		`{{ $x := "a" }}{{ $x }}{{ index .Phases $x "Output" }}`:                            ".Phases.*.Output",
		`{{ with $p := .Phases.a.Output }}{{ $p.b }}{{ .c }}{{ else }}{{ .Time }}{{ end }}`: ".Phases.a.Output .Phases.a.Output.b .Phases.a.Output.c .Time",
	} {
		tm, err := templates.Parse(text)
		require.NoError(t, err, text)
		refs, _ := tm.Refs()
		var got []string
		for _, r := range refs {
			got = append(got, r.String())
			require.Contains(t, ".$(", text[r.Offset:r.Offset+1], "%s: place of %s", text, r)
		}
		require.Equal(t, want, strings.Join(got, " "), text)
	}
}

func TestGuards(t *testing.T) {
	for text, want := range map[string]bool{
		`{{ .Phases.a.Output.b }}`:                                               false,
		`{{ if .Phases.a.Output.b }}x{{ end }}`:                                  true,
		`{{ if .Phases.a.Output.b }}{{ .Phases.a.Output.b }}{{ end }}`:           true,
		`{{ if .Phases.a.Output.b }}{{ else }}{{ .Phases.a.Output.b }}{{ end }}`: false,
		`{{ with .Phases.a.Output.b }}{{ . }}{{ end }}`:                          true,
		`{{ .Phases.a.Output.b | default "" }}`:                                  true,
		`{{ default "" .Phases.a.Output.b }}`:                                    true,
		`{{ if .Phases.a.Output.c }}{{ .Phases.a.Output.b }}{{ end }}`:           false,
	} {
		tm, err := templates.Parse(text)
		require.NoError(t, err)
		refs, _ := tm.Refs()
		require.NotEmpty(t, refs)
		require.Equal(t, want, refs[len(refs)-1].Guarded, text)
	}
}

func TestSuggestions(t *testing.T) {
	names := []string{"KubeExec", "KubeExecAll", "KubeTask", "Wait"}
	for in, want := range map[string]string{"KubeExce": "KubeExec", "kubetask": "KubeTask", "KubeTsak": "KubeTask", "Banana": "", "Wiat": "Wait", "": ""} {
		require.Equal(t, want, templates.Closest(in, names), in)
	}
}

// FuzzRender: whatever the template, rendering neither panics nor hangs.
func FuzzRender(f *testing.F) {
	action := regexp.MustCompile(`(?s)\{\{.*?\}\}`)
	seen := map[string]bool{}
	for _, pattern := range []string{filepath.Join(testcorpus.Dir(), "kanister", "*", "*.yaml"), filepath.Join("..", "testdata", "*.yaml"), filepath.Join("..", "testdata", "faulty", "*.yaml")} {
		files, err := filepath.Glob(pattern)
		require.NoError(f, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(f, err)
			for _, a := range action.FindAllString(string(text), -1) {
				if !seen[a] {
					seen[a] = true
					f.Add(a)
				}
			}
		}
	}
	for _, s := range []string{`{{ range 99999999 }}{{ end }}`, `{{ define "a" }}{{ template "a" }}{{ end }}{{ template "a" }}`, `{{ repeat 99 "x" | indent 9 | quote | toJson }}`,
		`{{ $a := dict "a" (list 1 2) }}{{ set $a "b" $a.a | toPrettyJson }}`, `{{ untilStep 0 9 2 | join "," }}`, `{{ regexReplaceAll "(a)" "aa" "$1$1" }}`,
		`{{ printf "%*d" 99 1 }}`, `{{ merge .Options (dict "x" 1) }}`, `{{ dig "a" "b" "c" .Options }}`, `{{ chunk 1 (list 1 2) }}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		tm, err := templates.Parse(text)
		if err != nil {
			return
		}
		tm.Refs()
		p := &templates.Params{
			Time: "2026-01-02T03:04:05Z", Options: map[string]any{"a": int64(1), "m": map[string]any{"k": []any{"v"}}},
			StatefulSet: &templates.Workload{Name: "db", Namespace: "shop", Pods: []string{"db-0"}},
			Object:      map[string]any{"metadata": map[string]any{"name": "db"}},
			Phases:      map[string]*templates.Phase{"p": {Output: map[string]any{"k": "v"}}},
		}
		for _, missing := range []string{"error", "zero"} {
			start := time.Now()
			out, err := tm.Execute(p, missing, templates.NewBudget())
			if len(out) > templates.MaxOutput {
				t.Errorf("%d bytes", len(out))
			}
			if err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
			if d := time.Since(start); d > 15*time.Second {
				t.Errorf("took %s", d)
			}
		}
	})
}
