package location

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
)

// keys of a profile in its flat form: a Secret, or a folder with a file for
// each. only: the types of locations that take it; none: all.
var keys = map[string]struct {
	set  func(*templates.Profile, string) error
	only []string
}{
	"bucket":        {set: text(func(p *templates.Profile) *string { return &p.Location.Bucket })},
	"endpoint":      {set: text(func(p *templates.Profile) *string { return &p.Location.Endpoint })},
	"prefix":        {set: text(func(p *templates.Profile) *string { return &p.Location.Prefix })},
	"region":        {set: text(func(p *templates.Profile) *string { return &p.Location.Region })},
	"caBundle":      {set: text(func(p *templates.Profile) *string { return &p.Location.CABundle })},
	"encryption":    {set: text(func(p *templates.Profile) *string { return &p.Location.Encryption })},
	"kmsKey":        {set: text(func(p *templates.Profile) *string { return &p.Location.KMSKey })},
	"lockMode":      {set: text(func(p *templates.Profile) *string { return &p.Location.LockMode })},
	"lockFor":       {set: text(func(p *templates.Profile) *string { return &p.Location.LockFor })},
	"skipTLSVerify": {set: skipTLSVerify},

	"accessKeyID":       {only: []string{TypeS3}},
	"secretAccessKey":   {only: []string{TypeS3}},
	"sessionToken":      {only: []string{TypeS3}},
	"role":              {only: []string{TypeS3}},
	"serviceAccountKey": {only: []string{TypeGCS}},
	"storageAccount":    {only: []string{TypeAzure}},
	"storageKey":        {only: []string{TypeAzure}},
}

func text(field func(*templates.Profile) *string) func(*templates.Profile, string) error {
	return func(p *templates.Profile, v string) error { *field(p) = v; return nil }
}

func skipTLSVerify(p *templates.Profile, v string) error {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return errors.New("skipTLSVerify is neither true nor false")
	}
	p.SkipSSLVerify = b
	return nil
}

// FromKeys reads the flat form of a profile. Space around values is none of
// theirs: editors end files with a line. All that is wrong is said at once, and
// of values only those that are no secret.
func FromKeys(given map[string][]byte) (templates.Profile, error) {
	var p templates.Profile
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	at := func(k string) string { return strings.TrimSpace(string(given[k])) }

	if p.Location.Type = at("type"); p.Location.Type == "s3" {
		p.Location.Type = TypeS3
	}
	known := slices.Contains([]string{TypeS3, TypeGCS, TypeAzure, TypeDirectory}, p.Location.Type)
	for _, k := range slices.Sorted(maps.Keys(given)) {
		key, ok := keys[k]
		switch {
		case k == "type":
		case !ok:
			wrong("the key %q is not known: %s", k, strings.Join(append(slices.Sorted(maps.Keys(keys)), "type"), ", "))
		case known && key.only != nil && !slices.Contains(key.only, p.Location.Type):
			wrong("the key %s is for a location of type %s, and this one is of type %s", k, key.only[0], p.Location.Type)
		case key.set != nil:
			if err := key.set(&p, at(k)); err != nil {
				wrong("%w", err)
			}
		}
	}
	both := func(a, b string) bool {
		if (at(a) == "") != (at(b) == "") {
			wrong("%s and %s belong together: one is missing", a, b)
		}
		return at(a) != ""
	}
	switch p.Location.Type {
	case TypeS3:
		data := map[string][]byte{}
		if both("accessKeyID", "secretAccessKey") {
			data["aws_access_key_id"], data["aws_secret_access_key"] = []byte(at("accessKeyID")), []byte(at("secretAccessKey"))
		}
		if at("sessionToken") != "" {
			if len(data) == 0 {
				wrong("sessionToken belongs to an accessKeyID and a secretAccessKey")
			}
			data["aws_session_token"] = []byte(at("sessionToken"))
		}
		if at("role") != "" {
			data["role"] = []byte(at("role"))
		}
		if len(data) > 0 {
			p.Credential = templates.Credential{Type: "secret", Secret: &templates.Secret{Type: awsSecretType, Data: data}}
		}
	case TypeGCS:
		if v := at("serviceAccountKey"); v != "" {
			var account struct {
				Project string `json:"project_id"`
			}
			if json.Unmarshal([]byte(v), &account) != nil {
				wrong("serviceAccountKey is not the JSON of a service account's key")
			}
			p.Credential = templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: account.Project, Secret: v}}
		}
	case TypeAzure:
		switch account, key := at("storageAccount"), at("storageKey"); {
		case account == "" && at("endpoint") == "", account == "" && key != "":
			wrong("a location of type azure needs storageAccount (and storageKey, or the environment's identity)")
		case key != "":
			p.Credential = templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: account, Secret: key}}
		case account != "":
			p.Credential = templates.Credential{Type: "secret", Secret: &templates.Secret{Type: azureSecretType, Data: map[string][]byte{"azure_storage_account_id": []byte(account)}}}
		}
	}
	if err := check(p); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return templates.Profile{}, fault.New(fault.User, "location profile: %w", errors.Join(errs...))
	}
	return p, nil
}
