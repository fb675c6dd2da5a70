package render

import (
	"encoding/base64"
	"maps"
	"strings"

	"thaw/blueprints/plan"
)

// FromScope returns the parameters of a run, without what a caller must fetch
// first: secrets, config maps, profile, and the target's object where it is
// Kubernetes' (Object is {kind, apiVersion, metadata} until then).
func FromScope(s plan.Scope) *Params {
	p := &Params{
		Time:         s.Time,
		Target:       s.Target,
		Options:      map[string]any(maps.Clone(s.Options)),
		ArtifactsIn:  map[string]Artifact{},
		Secrets:      map[string]Secret{},
		ConfigMaps:   map[string]ConfigMap{},
		Phases:       map[string]*Phase{},
		RestorePoint: RestorePoint{ID: s.RestorePoint.ID, Directory: s.RestorePoint.Directory, Consistent: s.RestorePoint.Consistent},
		Object: map[string]any{
			"kind": s.Target.Kind, "apiVersion": s.Target.APIVersion,
			"metadata": map[string]any{
				"name": s.Target.Name, "namespace": s.Target.Namespace,
				"labels": map[string]any{}, "annotations": map[string]any{},
			},
		},
	}
	if p.Options == nil {
		p.Options = map[string]any{}
	}
	for name, a := range s.Artifacts {
		p.ArtifactsIn[name] = Artifact(a)
	}
	if s.Object != nil {
		p.Object = s.Object
	}
	if s.Pod != nil {
		p.PodOverride, p.PodLabels, p.PodAnnotations = s.Pod.Override, s.Pod.Labels, s.Pod.Annotations
	}
	work := &Workload{Name: s.Target.Name, Namespace: s.Target.Namespace}
	if w := s.Workload; w != nil {
		work.Pods, work.Containers, work.PersistentVolumeClaims = w.Pods, w.Containers, w.Claims
	}
	named := &Named{Name: s.Target.Name, Namespace: s.Target.Namespace}
	// Kanister has .Namespace of a namespace alone. Its blueprints whose backup
	// is of a workload, and whose delete asks for .Namespace.Name, delete by
	// the same restore point here.
	if ns := s.Target.Namespace; ns != "" {
		p.Namespace = &Named{Name: ns, Namespace: ns}
	}
	switch strings.ToLower(s.Target.Kind) {
	case "statefulset":
		p.StatefulSet = work
	case "deployment":
		p.Deployment = work
	case "deploymentconfig":
		p.DeploymentConfig = work
	case "pvc", "persistentvolumeclaim":
		p.PVC = named
	case "namespace":
		if named.Namespace == "" {
			named.Namespace = named.Name
		}
		p.Namespace = named
	}
	return p
}

// Mask returns a copy in which every value of a secret is ********.
func Mask(p *Params) *Params {
	out := *p
	out.Secrets = maskSecrets(p.Secrets)
	if p.Profile != nil {
		prof := *p.Profile
		c := &prof.Credential
		if c.KeyPair != nil {
			c.KeyPair = &KeyPair{ID: Masked, Secret: Masked}
		}
		if c.Secret != nil {
			s := maskSecret(*c.Secret)
			c.Secret = &s
		}
		if c.KopiaServerSecret != nil {
			k := *c.KopiaServerSecret
			k.Password, k.Cert = Masked, Masked
			c.KopiaServerSecret = &k
		}
		out.Profile = &prof
	}
	if p.RepositoryServer != nil {
		rs := *p.RepositoryServer
		rs.Credentials.ServerTLS = maskSecret(rs.Credentials.ServerTLS)
		rs.Credentials.ServerUserAccess = maskSecret(rs.Credentials.ServerUserAccess)
		out.RepositoryServer = &rs
	}
	out.Phases = make(map[string]*Phase, len(p.Phases))
	for name, ph := range p.Phases {
		out.Phases[name] = maskPhase(ph)
	}
	out.DeferPhase = maskPhase(p.DeferPhase)
	// The target may itself be a Secret (mongodb-atlas).
	if kind, _ := p.Object["kind"].(string); strings.EqualFold(kind, "Secret") {
		out.Object = maps.Clone(p.Object)
		for field, mask := range map[string]string{"data": base64.StdEncoding.EncodeToString([]byte(Masked)), "stringData": Masked} {
			if data, ok := p.Object[field].(map[string]any); ok {
				masked := make(map[string]any, len(data))
				for k := range data {
					masked[k] = mask
				}
				out.Object[field] = masked
			}
		}
	}
	return &out
}

func maskPhase(p *Phase) *Phase {
	if p == nil {
		return nil
	}
	return &Phase{Secrets: maskSecrets(p.Secrets), ConfigMaps: p.ConfigMaps, Output: p.Output}
}

func maskSecrets(in map[string]Secret) map[string]Secret {
	out := make(map[string]Secret, len(in))
	for name, s := range in {
		out[name] = maskSecret(s)
	}
	return out
}

func maskSecret(s Secret) Secret {
	data := make(map[string][]byte, len(s.Data))
	for k := range s.Data {
		data[k] = []byte(Masked)
	}
	s.Data = data
	return s
}

// Rename gives a made-up target another name and namespace.
func Rename(p *Params, name, namespace string) {
	p.Target.Name, p.Target.Namespace = name, namespace
	if m, ok := p.Object["metadata"].(map[string]any); ok {
		m["name"], m["namespace"] = name, namespace
	}
	for _, w := range []*Workload{p.StatefulSet, p.Deployment, p.DeploymentConfig} {
		if w == nil {
			continue
		}
		claims := map[string]map[string]string{}
		for i, pod := range w.Pods {
			w.Pods[i] = name + strings.TrimPrefix(pod, w.Name)
			claims[w.Pods[i]] = w.PersistentVolumeClaims[pod]
		}
		w.Name, w.Namespace, w.PersistentVolumeClaims = name, namespace, claims
	}
	if p.PVC != nil {
		p.PVC.Name, p.PVC.Namespace = name, namespace
	}
	if n := p.Namespace; n != nil {
		n.Name, n.Namespace = namespace, namespace
		if strings.EqualFold(p.Target.Kind, "Namespace") {
			n.Name = name
		}
	}
}
