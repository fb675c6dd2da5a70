package location

import (
	"context"
	"errors"
	"fmt"

	"thaw/blueprints/fault"
)

const (
	// batch bounds the names that are in memory.
	batch = 10_000
	// complaints bounds the errors of one Remove.
	complaints = 10
)

var errFull = errors.New("full")

// Remove deletes the object of a name, and all below it as below a directory;
// it returns how many. Kanister deletes all whose name begins so: its "db/1"
// would take "db/10", another backup, with it.
//
// It is content where there is nothing. Errors: those of List and Delete;
// an object that is locked does not keep the others.
func Remove(ctx context.Context, s Store, name string, note func(string)) (n int, err error) {
	switch _, err := s.Stat(ctx, name); {
	case err == nil:
		if err := s.Delete(ctx, name); err != nil {
			return 0, err
		}
		n++
	case !errors.Is(err, ErrNotFound):
		return 0, err
	}
	for {
		var names []string
		err := s.List(ctx, name+"/", func(o Object) error {
			if names = append(names, o.Name); len(names) == batch {
				return errFull
			}
			return nil
		})
		if err != nil && !errors.Is(err, errFull) {
			return n, err
		}
		var failed []error
		for _, name := range names {
			if err := s.Delete(ctx, name); err != nil {
				if failed = append(failed, err); len(failed) == complaints || fault.Of(err) != fault.Permanent {
					break
				}
				continue
			}
			n++
			note(fmt.Sprintf("deleted %d objects at %s", n, name))
		}
		if len(failed) > 0 || len(names) < batch {
			return n, errors.Join(failed...)
		}
	}
}
