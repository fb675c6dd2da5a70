// Package location is where backups are kept: an object store, or a
// directory, and how it is reached. It knows no Temporal and no Kubernetes.
// Start with Store and Open.
package location

import (
	"context"
	"errors"
	"io"
	"time"
)

// Kinds of locations, as Kanister's Profile names them, and the directory.
const (
	TypeS3        = "s3Compliant"
	TypeGCS       = "gcs"
	TypeAzure     = "azure"
	TypeDirectory = "directory"
)

// ErrNotFound is wrapped by what Get and Stat return where there is no such
// object.
var ErrNotFound = errors.New("no such object")

// ErrExists is wrapped by what Put returns where PutOptions.New is set and the
// object is there.
var ErrExists = errors.New("the object exists")

// ErrRange is wrapped by what Get returns where the object is shorter than the
// range that was asked for.
var ErrRange = errors.New("the range is outside the object")

// ErrLocked is wrapped by what Delete and Put return where the store's object
// lock, or a retention of the bucket, holds the object.
var ErrLocked = errors.New("the object is locked")

// Object is what a store says of an object.
type Object struct {
	Name     string // below the location's prefix, without a slash before it
	Size     int64  // bytes
	Modified time.Time
	// LockedUntil is when its lock ends; Stat tells it, of stores that lock.
	LockedUntil time.Time
}

// PutOptions of an object.
type PutOptions struct {
	// New: fail with ErrExists where the object is there, without a race.
	New bool
	// Size in bytes, where it is known; 0 where it is not.
	Size int64
	// Unlocked: the location's lock is not for this one, which is short-lived.
	// The bucket may lock it nevertheless, by a rule of its own.
	Unlocked bool
}

// Lock is how a location holds its objects: "" not at all, "governance" or
// "compliance"; and for how long from when one is written.
type Lock struct {
	Mode string
	For  time.Duration
}

// Store is an opened location. Names are below the location's prefix. It is
// safe for concurrent use. Errors are of package fault: a credential that is
// refused or a bucket that is missing is fault.User, and says so; what the
// network did is fault.Transient.
type Store interface {
	// Put writes an object of any length. It is there whole, or not at all:
	// where r fails or ctx ends, nothing is left of it.
	Put(ctx context.Context, name string, r io.Reader, o PutOptions) (Object, error)
	// Get reads length bytes from offset; a negative length reads to the end.
	// A stream that breaks is taken up again where it broke, a few times.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	Stat(ctx context.Context, name string) (Object, error)
	// Delete removes an object, and is content where there is none.
	Delete(ctx context.Context, name string) error
	// List calls each for every object whose name begins with prefix, in the
	// order of their names, until it returns an error.
	List(ctx context.Context, prefix string, each func(Object) error) error
	// Extend makes an object's lock last until then, at least. It does nothing
	// where the location locks nothing.
	Extend(ctx context.Context, name string, until time.Time) error
	// Lock is the location's.
	Lock() Lock
	// String names the location for people, without credentials.
	String() string
	Close() error
}
