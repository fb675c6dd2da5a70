package activities

import (
	"context"
	"fmt"
	"strings"

	"thaw/activities/cluster"
	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/blueprints/render"
	"thaw/blueprints/templates"
	"thaw/internal/location"
)

// profile reads a location profile and its credentials: Kanister's resource
// Profile of the worker's cluster, or a Secret of our own form, which may be a
// folder of files.
func (e *Engine) profile(ctx context.Context, ref plan.Reference) (*render.Profile, error) {
	own := strings.EqualFold(ref.Kind, "Secret") || ref.Kind == "" && (e.cfg.Cluster == nil || ref.Namespace == "")
	switch {
	case own:
		keys, err := e.cfg.Secrets.Secret(ctx, ref)
		if err != nil {
			return nil, fmt.Errorf("location profile: %w", err)
		}
		p, err := location.FromKeys(keys)
		if err != nil {
			return nil, fault.New(fault.User, "location profile %s: %w", ref.Name, err)
		}
		return &p, nil
	case ref.Kind == "" || strings.EqualFold(ref.Kind, "Profile"):
		return e.kanisterProfile(ctx, ref)
	}
	return nil, fault.New(fault.User, "location profile %s: kind is %q; want Profile or Secret", ref.Name, ref.Kind)
}

// resource is Kanister's Profile, which has its fields at the top.
type resource struct {
	Location   templates.Location `json:"location"`
	Credential struct {
		Type    string `json:"type"`
		KeyPair *struct {
			IDField     string         `json:"idField"`
			SecretField string         `json:"secretField"`
			Secret      plan.Reference `json:"secret"`
		} `json:"keyPair"`
		Secret            *plan.Reference `json:"secret"`
		KopiaServerSecret *struct {
			Username       string         `json:"username"`
			Hostname       string         `json:"hostname"`
			UserPassphrase keyOf          `json:"userPassphrase"`
			TLSCert        keyOf          `json:"tlsCert"`
			ConnectOptions map[string]int `json:"connectOptions"`
		} `json:"kopiaServerSecret"`
	} `json:"credential"`
	SkipSSLVerify bool `json:"skipSSLVerify"`
}

type keyOf struct {
	Key    string         `json:"key"`
	Secret plan.Reference `json:"secret"`
}

func (e *Engine) kanisterProfile(ctx context.Context, ref plan.Reference) (*render.Profile, error) {
	ref.Group, ref.APIVersion, ref.Resource, ref.Kind = "cr.kanister.io", "v1alpha1", "profiles", "Profile"
	o, err := e.cfg.Cluster.Get(ctx, ref, nil)
	if err != nil {
		return nil, fmt.Errorf("location profile: %w", err)
	}
	var r resource
	if err := cluster.Convert(o, &r); err != nil {
		return nil, err
	}
	p := &render.Profile{Location: r.Location, SkipSSLVerify: r.SkipSSLVerify}
	c := &p.Credential
	c.Type = r.Credential.Type
	read := func(of plan.Reference) (map[string][]byte, error) {
		if of.Namespace == "" {
			of.Namespace = ref.Namespace
		}
		data, err := e.cfg.Secrets.Secret(ctx, of)
		if err != nil {
			return nil, fmt.Errorf("credential of location profile %s/%s: %w", ref.Namespace, ref.Name, err)
		}
		return data, nil
	}
	key := func(of plan.Reference, key string) (string, error) {
		data, err := read(of)
		if err != nil {
			return "", err
		}
		v, ok := data[key]
		if !ok {
			return "", fault.New(fault.User, "credential of location profile %s/%s: secret %s has no key %q", ref.Namespace, ref.Name, of.Name, key)
		}
		return string(v), nil
	}
	switch {
	case r.Credential.KeyPair != nil:
		k := r.Credential.KeyPair
		c.KeyPair = &templates.KeyPair{}
		if c.KeyPair.ID, err = key(k.Secret, k.IDField); err != nil {
			return nil, err
		}
		if c.KeyPair.Secret, err = key(k.Secret, k.SecretField); err != nil {
			return nil, err
		}
	case r.Credential.Secret != nil:
		of := *r.Credential.Secret
		data, err := read(of)
		if err != nil {
			return nil, err
		}
		s := secretOf(of, data)
		c.Secret = &s
	case r.Credential.KopiaServerSecret != nil:
		k := r.Credential.KopiaServerSecret
		c.KopiaServerSecret = &templates.KopiaServerSecret{Username: k.Username, Hostname: k.Hostname, ConnectOptions: k.ConnectOptions}
		if c.KopiaServerSecret.Password, err = key(k.UserPassphrase.Secret, k.UserPassphrase.Key); err != nil {
			return nil, err
		}
		if c.KopiaServerSecret.Cert, err = key(k.TLSCert.Secret, k.TLSCert.Key); err != nil {
			return nil, err
		}
	}
	return p, nil
}
