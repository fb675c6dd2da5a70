package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"thaw/blueprints/fault"
	"thaw/blueprints/templates"
	"thaw/internal/location"
	"thaw/internal/repository"
)

// defaultConfig is where Kanister's functions leave the configuration of Kopia.
const defaultConfig = "/tmp/kopia-repository.config"

func stream() *cobra.Command {
	c := &cobra.Command{Use: "stream", Short: "Push a stream into a repository of Kopia"}
	c.AddCommand(streamPush())
	return c
}

// streamer pushes one stream.
type streamer struct {
	password, config, dir, file string
}

func streamPush() *cobra.Command {
	s := &streamer{}
	c := &cobra.Command{
		Use: "push SOURCE", Short: "Push what an address (http://, https://) or the standard input (-) gives",
		Long: `Push what an address (http://, https://) or the standard input (-) gives into a
repository of Kopia, as a snapshot of the directory --dirPath with the one file
--filePath. The repository is that of a configuration file of Kopia's, whose storage
is S3, GCS or Azure.`,
		RunE: func(c *cobra.Command, args []string) error {
			p, prefix, err := s.check(args)
			if err != nil {
				return err
			}
			start := time.Now()
			snap, err := s.push(c, args[0], p, prefix)
			if err != nil {
				return withCode(fmt.Errorf("stream push: %w", err))
			}
			// As Kanister's prints it: scripts read the id here.
			fmt.Fprintf(c.OutOrStdout(), "Created snapshot with root %s and ID %s in %s\n", snap.Object, snap.ID, time.Since(start).Truncate(time.Second))
			return nil
		},
	}
	f := c.PersistentFlags()
	f.StringVarP(&s.password, "password", "p", "", "passphrase of the repository (required)")
	f.StringVarP(&s.config, "config-file", "c", "", "configuration file of Kopia's (default "+defaultConfig+")")
	f.StringVarP(&s.dir, "dirPath", "d", "", "directory that the snapshot is of (required)")
	f.StringVarP(&s.file, "filePath", "f", "", "path of the file in it (required)")
	return c
}

func (s *streamer) check(args []string) (p templates.Profile, prefix string, err error) {
	var bad []error
	no := func(flag string, err error) {
		if err != nil {
			bad = append(bad, fmt.Errorf("%s: %w", flag, err))
		}
	}
	if len(args) != 1 {
		bad = append(bad, fmt.Errorf("%d arguments: want one, the address to read or -", len(args)))
	} else if args[0] != stdio {
		no("source", checkSource(args[0]))
	}
	if s.password == "" {
		no("--password", errors.New("it is empty"))
	}
	_, err = nameOf(s.dir)
	no("--dirPath", err)
	_, err = nameOf(s.file)
	no("--filePath", err)
	if s.config == "" {
		s.config = defaultConfig
	}
	text, err := os.ReadFile(s.config)
	if err == nil {
		p, prefix, err = kopiaConfig(text)
	}
	no("--config-file", err)
	return p, prefix, wrong(bad)
}

// checkSource repeats nothing of an address: it may hold a password.
func checkSource(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("it is no address: write http://host:port/path, https://…, or - for the standard input")
	}
	return nil
}

func (s *streamer) push(c *cobra.Command, address string, p templates.Profile, prefix string) (snap *repository.Snapshot, err error) {
	ctx := c.Context()
	store, err := location.Open(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	r, err := repository.Open(ctx, store, repository.Options{Prefix: prefix, Passphrase: s.password})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close(ctx)) }()
	in, err := s.source(c, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	dir := path.Clean("/" + s.dir)
	return r.SaveStream(ctx, in, s.file, repository.SaveOptions{Source: dir, Root: dir})
}

func (s *streamer) source(c *cobra.Command, address string) (io.ReadCloser, error) {
	if address == stdio {
		in, err := source(c, stdio)
		if err != nil {
			return nil, fault.New(fault.User, "%w", err)
		}
		return in, nil
	}
	return fetchStream(c.Context(), address)
}

// fetchStream opens an address. An answer that is no success is not data.
func fetchStream(ctx context.Context, address string) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, checkSource(address)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, checkSource(address)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // without the address
		}
		return nil, fault.New(fault.Transient, "read %s: %w", u.Redacted(), err)
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, fault.New(fault.Command, "read %s: it answered %s", u.Redacted(), res.Status)
	}
	return struct {
		io.Reader
		io.Closer
	}{&body{res.Body, u.Redacted()}, res.Body}, nil
}

type body struct {
	io.Reader
	name string
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // the end itself
		err = fault.New(fault.Transient, "%s broke off: %w", b.name, err)
	}
	return n, err
}

// kopiaConfig reads a configuration file of Kopia's (kopia.io: repository
// connect): the location, and the path of the repository in it. Errors repeat
// no value.
func kopiaConfig(text []byte) (p templates.Profile, prefix string, err error) {
	var file struct {
		APIServer *struct{} `json:"apiServer"`
		Storage   *struct {
			Type   string          `json:"type"`
			Config json.RawMessage `json:"config"`
		} `json:"storage"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return p, "", fault.New(fault.User, "it is no configuration of Kopia's: %s", broken(err))
	}
	switch {
	case file.APIServer != nil:
		return p, "", fault.New(fault.User, "it is of Kopia's API server, which Thaw does not use: connect to the store itself (kopia repository connect s3, gcs or azure)")
	case file.Storage == nil:
		return p, "", fault.New(fault.User, "it names no storage: it is written by `kopia repository connect`")
	}
	var c kopiaStorage
	if err := json.Unmarshal(file.Storage.Config, &c); err != nil {
		return p, "", fault.New(fault.User, "its storage cannot be read: %s", broken(err))
	}
	keys, err := c.keys(file.Storage.Type)
	if err != nil {
		return p, "", fault.New(fault.User, "%w", err)
	}
	prefix = strings.TrimSuffix(c.Prefix, "/")
	if prefix == c.Prefix || prefix == "" || prefix != strings.Trim(path.Clean("/"+prefix), "/") {
		return p, "", fault.New(fault.User, "the prefix of its storage is none that ends in a slash: connect with --prefix=DIRECTORY/")
	}
	flat := map[string][]byte{}
	for k, v := range keys {
		if v != "" {
			flat[k] = []byte(v)
		}
	}
	p, err = location.FromKeys(flat)
	return p, prefix, err
}

// kopiaStorage has the fields of Kopia's storages that Thaw's know too, and of
// the others those that say how one proves who he is.
type kopiaStorage struct {
	Bucket         string `json:"bucket"`
	Container      string `json:"container"`
	Prefix         string `json:"prefix"`
	Endpoint       string `json:"endpoint"`
	DoNotUseTLS    bool   `json:"doNotUseTLS"`
	DoNotVerifyTLS bool   `json:"doNotVerifyTLS"`
	RootCA         []byte `json:"rootCA"`
	Region         string `json:"region"`

	AccessKeyID     string `json:"accessKeyID"`
	SecretAccessKey string `json:"secretAccessKey"`
	SessionToken    string `json:"sessionToken"`
	RoleARN         string `json:"roleARN"`

	CredentialsFile string          `json:"credentialsFile"`
	Credentials     json.RawMessage `json:"credentials"`

	StorageAccount    string `json:"storageAccount"`
	StorageKey        string `json:"storageKey"`
	StorageDomain     string `json:"storageDomain"`
	SASToken          string `json:"sasToken"`
	ClientSecret      string
	ClientCertificate string `json:"clientCertificate"`

	PointInTime *string `json:"pointInTime"`
	ReadOnly    bool    `json:"readOnly"`
}

// keys is the storage in the flat form of a location.
func (c *kopiaStorage) keys(kind string) (map[string]string, error) {
	scheme := "https://"
	if c.DoNotUseTLS {
		scheme = "http://"
	}
	if c.ReadOnly || c.PointInTime != nil {
		return nil, errors.New("it connects to a repository that is only read")
	}
	switch kind {
	case "s3":
		k := map[string]string{
			"type": "s3", "bucket": c.Bucket, "region": c.Region, "caBundle": string(c.RootCA), "role": c.RoleARN,
			"accessKeyID": c.AccessKeyID, "secretAccessKey": c.SecretAccessKey, "sessionToken": c.SessionToken,
		}
		if c.Endpoint != "" && c.Endpoint != "s3.amazonaws.com" { // that one is found by the region
			k["endpoint"] = scheme + c.Endpoint
		}
		if c.DoNotVerifyTLS {
			k["skipTLSVerify"] = strconv.FormatBool(true)
		}
		return k, nil
	case "gcs":
		k := map[string]string{"type": "gcs", "bucket": c.Bucket}
		if string(c.Credentials) != "null" {
			k["serviceAccountKey"] = string(c.Credentials)
		}
		if c.CredentialsFile != "" {
			b, err := os.ReadFile(c.CredentialsFile)
			if err != nil {
				return nil, fmt.Errorf("its credentials: %w", err)
			}
			k["serviceAccountKey"] = string(b)
		}
		return k, nil
	case "azureBlob":
		if c.SASToken != "" || c.ClientSecret != "" || c.ClientCertificate != "" {
			return nil, errors.New("it proves who it is by a SAS token or a service principal: connect with --storage-key, or by the environment's identity")
		}
		k := map[string]string{"type": "azure", "bucket": c.Container, "storageAccount": c.StorageAccount, "storageKey": c.StorageKey}
		if c.StorageDomain != "" {
			k["endpoint"] = scheme + c.StorageAccount + "." + c.StorageDomain
		}
		return k, nil
	}
	return nil, fmt.Errorf("the type of its storage is %q: want s3, gcs or azureBlob", kind)
}
