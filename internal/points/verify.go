package points

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"thaw/blueprints/fault"
	"thaw/blueprints/plan"
	"thaw/internal/location"
	"thaw/internal/repository"
)

// Sample is a part of the files that is read, where not all are.
type Sample struct {
	// Share of the bytes, between 0 and 1.
	Share float64
	// Day it is of: the same day reads the same files again, and another day
	// others.
	Day time.Time
}

// SampleOf reads a share of the bytes, such as 5%. Nil, where the text is empty:
// all of them.
func SampleOf(text string, day time.Time) (*Sample, error) {
	if text == "" {
		return nil, nil
	}
	share, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !strings.HasSuffix(text, "%") || !(share > 0 && share <= 100) {
		return nil, fmt.Errorf("%q: want a percentage above 0, such as 5%%", text)
	}
	return &Sample{Share: share / 100, Day: day}, nil
}

// Checked is what a verification found of one restore point.
type Checked struct {
	ID    string
	Files int   // read
	Of    int   // that there are
	Bytes int64 // read
	// Volumes whose data is in repositories, and how much of it was read.
	Volumes     int
	VolumeBytes int64
	// Whole: all of it was read. Together with a key that is a proof.
	Whole bool
	Err   error // what is wrong with it
}

// String says what was found, in words.
func (c *Checked) String() string {
	if c.Err != nil {
		return c.Err.Error()
	}
	text := fmt.Sprintf("%s: its record and all of its %d files are whole", c.ID, c.Of)
	if c.Files < c.Of {
		text = fmt.Sprintf("%s: its record and %d of its %d files are whole, the others were not read", c.ID, c.Files, c.Of)
	}
	switch {
	case c.Volumes == 0:
		return text + "; data that its artifacts name elsewhere was not read"
	case c.VolumeBytes == 0 && !c.Whole:
		return fmt.Sprintf("%s; the data of its %d volumes was not read, which takes the key", text, c.Volumes)
	}
	return fmt.Sprintf("%s; %d volumes are whole, as far as they were read: %d bytes", text, c.Volumes, c.VolumeBytes)
}

// Verify reads the records of restore points, checks them by their seals where a
// key is given, reads back their files, or a sample of all of them together,
// and with the passphrase of their repositories the data of their volumes; it
// says of each all that is wrong. Errors: those of a location that cannot be
// read now.
func Verify(ctx context.Context, s location.Store, ids []string, key Key, passphrase string, sample *Sample, note func(string)) (checked []Checked, err error) {
	checked = make([]Checked, len(ids))
	wrong := make([][]error, len(ids))
	records := make([]*plan.RestorePoint, len(ids))
	data := &repositories{s, passphrase, map[string]*repository.Repository{}}
	defer func() { err = errors.Join(err, data.close(ctx)) }()
	share := 1.0
	if sample != nil {
		share = sample.Share
	}
	var files []sampled
	for i, id := range ids {
		rp, err := Read(ctx, s, id, key)
		if away(ctx, err) {
			return nil, err
		}
		checked[i].ID, checked[i].Err = id, err
		if err != nil {
			continue
		}
		records[i], checked[i].Of, checked[i].Volumes = rp, len(rp.Files), len(Snapshots(rp))
		for _, f := range rp.Files {
			files = append(files, sampled{of: i, id: id, file: f})
		}
	}
	if sample != nil {
		files = sample.pick(files)
	}
	for _, f := range files {
		err := check(ctx, s, f.id, f.file, io.Discard)
		if away(ctx, err) {
			return nil, fmt.Errorf("verify restore point %q: %w", f.id, err)
		}
		c := &checked[f.of]
		c.Files++
		c.Bytes += f.file.Size
		if err != nil {
			wrong[f.of] = append(wrong[f.of], err)
			continue
		}
		note("verified " + f.id + "/" + f.file.Name)
	}
	for i := range checked {
		c := &checked[i]
		read := c.Volumes == 0
		if c.Volumes > 0 && passphrase != "" {
			n, err := data.verify(ctx, records[i], share, note)
			if away(ctx, err) {
				return nil, fmt.Errorf("verify restore point %q: %w", c.ID, err)
			}
			c.VolumeBytes, read = n, share == 1
			switch {
			case errors.Is(err, repository.ErrPassphrase):
				c.Err = fault.New(fault.User, "restore point %q: the data of its volumes cannot be read: %w", c.ID, err)
			case err != nil:
				wrong[i] = append(wrong[i], err)
			}
		}
		if err := errors.Join(wrong[i]...); err != nil {
			c.Err = fault.New(fault.Permanent, "restore point %q is damaged:\n%w", c.ID, err)
		}
		c.Whole = c.Err == nil && c.Files == c.Of && read
	}
	return checked, nil
}

// away: the location cannot be read now, which says nothing of what is in it.
func away(ctx context.Context, err error) bool {
	return err != nil && (ctx.Err() != nil || fault.Of(err) == fault.Transient)
}

type sampled struct {
	of   int
	id   string
	file plan.File
}

// pick takes files in an order that the day decides, until they have their share
// of the bytes: at least one. A file is taken whole, since its sum is of all of
// it.
func (p *Sample) pick(files []sampled) []sampled {
	var all int64
	order := make(map[string]uint64, len(files))
	name := func(f sampled) string { return f.id + "/" + f.file.Name }
	for _, f := range files {
		all += f.file.Size
		sum := sha256.Sum256([]byte(p.Day.UTC().Format("2006-01-02") + "\n" + name(f)))
		order[name(f)] = binary.BigEndian.Uint64(sum[:])
	}
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b sampled) int { return cmp.Compare(order[name(a)], order[name(b)]) })
	var read int64
	for i, f := range files {
		if i > 0 && float64(read) >= p.Share*float64(all) {
			files = files[:i]
			break
		}
		read += f.file.Size
	}
	return files
}
