package points

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"thaw/blueprints/fault"
	"thaw/internal/location"
)

const (
	sealFile = "restorepoint.seal"
	// sealVersion is the first word of a seal.
	sealVersion = "thaw-seal/v1"
	sealLimit   = 4 << 10
)

// Key seals records, and tells one that was changed. Nil is nobody's: what is
// read with it is not checked.
type Key []byte

// NewKey derives the key from the passphrase of the workers that publish: who
// knows no more than the seal learns nothing of the passphrase.
func NewKey(passphrase string) (Key, error) {
	if passphrase == "" {
		return nil, fault.New(fault.Permanent, "restore points are sealed with the worker's secretsKey, which is empty")
	}
	k, err := hkdf.Key(sha256.New, []byte(passphrase), nil, "thaw restore point v1", sha256.Size)
	if err != nil {
		return nil, fault.New(fault.Permanent, "derive the key of restore points: %w", err)
	}
	return k, nil
}

func (k Key) sum(record []byte) []byte {
	h := hmac.New(sha256.New, k)
	_, _ = h.Write(record) // of a hash: it never fails
	return h.Sum(nil)
}

func (k Key) seal(record []byte) []byte {
	return []byte(sealVersion + " " + hex.EncodeToString(k.sum(record)) + "\n")
}

// check compares a record with its seal. What is wrong is a person's to judge:
// it is said by the object's name.
func (k Key) check(ctx context.Context, s location.Store, id string, record []byte) error {
	if k == nil {
		return nil
	}
	name := at(id, sealFile)
	r, err := s.Get(ctx, name, 0, -1)
	if errors.Is(err, location.ErrNotFound) {
		return fault.New(fault.User, "%s is missing: whoever wrote %s is not known; look at it with: thaw restorepoint show --profile FOLDER %s; if you trust it, seal it: thaw restorepoint seal --profile FOLDER --key FILE %s", name, at(id, recordFile), id, id)
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(io.LimitReader(r, sealLimit))
	if err != nil {
		return err
	}
	version, digits, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	if version != sealVersion {
		return fault.New(fault.User, "%s is of version %q; this release reads %s", name, version, sealVersion)
	}
	sum, err := hex.DecodeString(digits)
	if err != nil || !hmac.Equal(sum, k.sum(record)) {
		return fault.New(fault.User, "%s does not fit its seal, %s: somebody changed it, or it was sealed with another key; give the secretsKey of the worker that wrote it; with the right key do not restore it: restore another restore point", at(id, recordFile), name)
	}
	return nil
}

// Seal seals a record as it is, and its entry, for a person who trusts it: one
// without a seal, or of a key that is no longer the workers'.
func Seal(ctx context.Context, s location.Store, id string, key Key) error {
	if key == nil {
		return fault.New(fault.User, "seal restore point %q: no key is given", id)
	}
	rp, record, err := read(ctx, s, id, nil)
	if err == nil {
		err = putBytes(ctx, s, at(id, sealFile), key.seal(record))
	}
	if err == nil {
		err = reenter(ctx, s, EntryOf(rp).sealed(key))
	}
	if err != nil {
		return fmt.Errorf("seal restore point %q: %w", id, err)
	}
	return nil
}

// reenter puts an entry in the place of those that the index has of the same
// restore point. One that a lock holds stays beside it.
func reenter(ctx context.Context, s location.Store, e Entry) error {
	list, err := List(ctx, s)
	if err != nil {
		return err
	}
	if err := putBytes(ctx, s, e.name(), nil); err != nil {
		return err
	}
	for _, old := range list {
		if old.ID == e.ID && old.name() != e.name() {
			if _, err := takeAway(ctx, s, []string{old.name()}); err != nil {
				return err
			}
		}
	}
	return nil
}
