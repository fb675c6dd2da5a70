package teststore

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"thaw/blueprints/templates"
)

// Key and Secret are the S3 store's credential.
const (
	Key    = "thawtestkey"
	Secret = "thaw-test-secret-0123456789"
)

// Bucket is the bucket of every store.
const Bucket = "backups"

// S3Options of a store.
type S3Options struct {
	Locks bool   // the bucket has object lock, and so versions
	Dir   string // where it keeps objects; default: a directory of the test's
	Host  string // address of this machine; default: loopback's
}

// S3 is the profile of a new S3 store.
func S3(t testing.TB) templates.Profile {
	t.Helper()
	return StartS3(t, S3Options{}).Profile
}

// StartS3 starts an S3 store with a bucket, which is empty where o.Dir is.
func StartS3(t testing.TB, o S3Options) *Server {
	t.Helper()
	bin := program(t, "versitygw")
	s := newServer(t, o.Host)
	if s.Dir = o.Dir; s.Dir == "" {
		s.Dir = t.TempDir()
	}
	data, versions := filepath.Join(s.Dir, "data"), filepath.Join(s.Dir, "versions")
	for _, d := range []string{data, versions} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatalf("teststore: %v", err)
		}
	}
	args := []string{"--quiet", "--access", Key, "--secret", Secret, "--port", s.Direct, "posix"}
	if o.Locks {
		args = append(args, "--versioning-dir", versions)
	}
	args = append(args, data)
	s.run(func() *exec.Cmd { return command(bin, args...) })
	_, err := s.S3Client().CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(Bucket), ObjectLockEnabledForBucket: aws.Bool(o.Locks)})
	var had *types.BucketAlreadyOwnedByYou // in a directory of an earlier one
	if err != nil && !errors.As(err, &had) {
		t.Fatalf("teststore: make the bucket: %v: %s", err, s.log)
	}
	s.Profile = templates.Profile{
		Location:   templates.Location{Type: "s3Compliant", Bucket: Bucket, Endpoint: "http://" + s.Line.Addr(), Region: "us-east-1"},
		Credential: templates.Credential{Type: "keyPair", KeyPair: &templates.KeyPair{ID: Key, Secret: Secret}},
	}
	return s
}

// Unlock makes the lock of an object, whose mode is governance, end at a time:
// no test waits for a day.
func (s *Server) Unlock(name string, at time.Time) {
	s.t.Helper()
	_, err := s.S3Client().PutObjectRetention(context.Background(), &s3.PutObjectRetentionInput{
		Bucket: aws.String(Bucket), Key: &name, BypassGovernanceRetention: aws.Bool(true),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeGovernance, RetainUntilDate: &at},
	})
	if err != nil {
		s.t.Fatalf("teststore: unlock %s: %v", name, err)
	}
}

// Folder writes the profile of an S3 store as a secret's folder, as
// docs/locations.md has it, and returns dir. prefix may be empty.
func (s *Server) Folder(dir, prefix string) string {
	s.t.Helper()
	keys := map[string]string{"type": "s3", "bucket": Bucket, "endpoint": s.Profile.Location.Endpoint, "accessKeyID": Key, "secretAccessKey": Secret}
	if prefix != "" {
		keys["prefix"] = prefix
	}
	err := os.MkdirAll(dir, 0o700)
	for name, value := range keys {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o600))
	}
	if err != nil {
		s.t.Fatalf("teststore: %v", err)
	}
	return dir
}

// S3Client is a plain client of an S3 store, past the line.
func (s *Server) S3Client() *s3.Client {
	return s3.New(s3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("http://" + s.Direct), UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(Key, Secret, ""),
	})
}
