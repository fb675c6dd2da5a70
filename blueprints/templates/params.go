// Package templates is the template language of blueprints: Kanister's (Go
// text/template with sprig), made safe to run on text that strangers wrote.
// It parses, reports what a template refers to, and executes within limits.
// It knows no blueprint. Start with Parse and Params.
package templates

import "thaw/blueprints/plan"

// Params is what templates see, named as Kanister names it. It has no
// methods, since a template could call them.
type Params struct {
	StatefulSet      *Workload
	Deployment       *Workload
	DeploymentConfig *Workload
	PVC              *Named
	Namespace        *Named
	ArtifactsIn      map[string]Artifact
	ConfigMaps       map[string]ConfigMap
	Secrets          map[string]Secret
	// Time is the start of the action, RFC 3339 with nanoseconds, UTC.
	Time             string
	Profile          *Profile
	RepositoryServer *RepositoryServer
	Options          map[string]any
	// Object is the target as Kubernetes holds it, or {kind, apiVersion,
	// metadata} of a target that lives elsewhere.
	Object         map[string]any
	CurrentPhase   string
	Phases         map[string]*Phase
	DeferPhase     *Phase
	PodOverride    map[string]any
	PodAnnotations map[string]string
	PodLabels      map[string]string

	// What follows is Thaw's own.
	Target       plan.Target
	RestorePoint RestorePoint
}

// Workload is a StatefulSet, a Deployment or a DeploymentConfig.
type Workload struct {
	Name       string
	Namespace  string
	Pods       []string
	Containers [][]string
	// PersistentVolumeClaims: pod -> claim -> mount path.
	PersistentVolumeClaims map[string]map[string]string
}

// Named is an object that has a name and a namespace.
type Named struct{ Name, Namespace string }

// Artifact is what an earlier action left.
type Artifact struct {
	KeyValue      map[string]string `json:"keyValue,omitempty"`
	KopiaSnapshot string            `json:"kopiaSnapshot,omitempty"`
}

// Meta is the part of an object's metadata that templates use.
type Meta struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Secret is a Secret with its values decoded.
type Secret struct {
	Meta `json:"metadata"`
	Data map[string][]byte `json:"data,omitempty"`
	Type string            `json:"type,omitempty"`
}

// ConfigMap is a ConfigMap.
type ConfigMap struct {
	Meta `json:"metadata"`
	Data map[string]string `json:"data,omitempty"`
}

// Phase is what a phase has left for later ones.
type Phase struct {
	Secrets    map[string]Secret
	ConfigMaps map[string]ConfigMap
	Output     map[string]any
}

// Profile is a location profile. Its JSON is what kando reads.
type Profile struct {
	Location      Location
	Credential    Credential
	SkipSSLVerify bool
}

// Location is where a profile keeps data.
type Location struct {
	Type     string `json:"type"`
	Bucket   string `json:"bucket"`
	Endpoint string `json:"endpoint"`
	Prefix   string `json:"prefix"`
	Region   string `json:"region"`

	// What follows is Thaw's own; Kanister's tools do not see it.

	// CABundle is the certificate of whoever signed the store's, in PEM.
	CABundle string `json:"caBundle,omitempty"`
	// Encryption is what the store encrypts with: AES256 or aws:kms. Default:
	// what the bucket says.
	Encryption string `json:"encryption,omitempty"`
	// KMSKey names the key of aws:kms, or of Google's KMS.
	KMSKey string `json:"kmsKey,omitempty"`
	// LockMode locks objects: governance or compliance. Default: not locked.
	LockMode string `json:"lockMode,omitempty"`
	// LockFor is how long, as Go writes a duration; it is at least a day.
	LockFor string `json:"lockFor,omitempty"`
}

// Credential is a profile's credential; which field is set follows Type.
type Credential struct {
	Type              string
	KeyPair           *KeyPair
	Secret            *Secret
	KopiaServerSecret *KopiaServerSecret
}

// KeyPair is an access key.
type KeyPair struct {
	ID     string
	Secret string
}

// KopiaServerSecret is the credential of a Kopia API server.
type KopiaServerSecret struct {
	Username       string
	Hostname       string
	Password       string
	Cert           string
	ConnectOptions map[string]int
}

// RepositoryServer is Kanister's repository server (up to 0.119.0).
type RepositoryServer struct {
	Name            string
	Namespace       string
	ServerInfo      ServerInfo
	Username        string
	Credentials     RepositoryServerCredentials
	Address         string
	ContentCacheMB  int
	MetadataCacheMB int
}

// ServerInfo names a repository server's pod and service.
type ServerInfo struct{ PodName, ServiceName string }

// RepositoryServerCredentials are its secrets.
type RepositoryServerCredentials struct{ ServerTLS, ServerUserAccess Secret }

// RestorePoint is the restore point that the run makes or works on.
type RestorePoint struct {
	ID         string
	Directory  string
	Consistent bool
}
