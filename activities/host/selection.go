package host

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"thaw/blueprints/fault"
)

// selection says which entries of a tree are meant. Patterns are relative to
// the tree's root, in slash form, as in path.Match, with ** for any number of
// directories; a pattern that matches a directory means all that is in it.
type selection struct {
	include, exclude []string
	// from and to, where set, are the first and last file name that is meant,
	// in order of names.
	from, to string
}

func (s selection) check() error {
	for _, p := range slices.Concat(s.include, s.exclude) {
		if path.IsAbs(p) || strings.HasPrefix(p, "../") {
			return fault.New(fault.User, "pattern %q: patterns are relative to the path", p)
		}
		for seg := range strings.SplitSeq(p, "/") {
			if _, err := path.Match(seg, ""); err != nil {
				return fault.New(fault.User, "pattern %q: %w", p, err)
			}
		}
	}
	if (s.from == "") != (s.to == "") {
		return fault.New(fault.User, "nameFrom and nameTo belong together")
	}
	if s.from > s.to {
		return fault.New(fault.User, "nameFrom %q comes after nameTo %q", s.from, s.to)
	}
	return nil
}

// match matches a pattern with the whole of a path.
func match(pattern, name []string) bool {
	for i, seg := range pattern {
		if seg == "**" {
			for j := i; j <= len(name); j++ {
				if match(pattern[i+1:], name[j:]) {
					return true
				}
			}
			return false
		}
		if i >= len(name) {
			return false
		}
		if ok, _ := path.Match(seg, name[i]); !ok {
			return false
		}
	}
	return len(pattern) == len(name)
}

func matchAny(patterns []string, rel string) bool {
	name := strings.Split(rel, "/")
	for _, p := range patterns {
		if match(strings.Split(strings.TrimSuffix(p, "/"), "/"), name) {
			return true
		}
	}
	return false
}

// entry is one file of a tree.
type entry struct {
	rel  string // "." is the root
	info fs.FileInfo
}

// walk lists the selected entries, parents first; directories of selected
// entries are listed too. With ignoreVanished, what disappears meanwhile is
// left out.
func (s selection) walk(root string, ignoreVanished bool, visit func(entry) error) error {
	info, err := os.Lstat(root)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return visit(entry{".", info})
	}
	pending := []entry{} // directories that are listed once something in them is
	emit := func(e entry) error {
		for len(pending) > 0 && pending[0].rel != "." && !strings.HasPrefix(e.rel, pending[0].rel+"/") {
			pending = pending[1:]
		}
		for _, d := range pending {
			if err := visit(d); err != nil {
				return err
			}
		}
		pending = pending[:0]
		return visit(e)
	}
	var dir func(rel string, all bool) error
	dir = func(rel string, all bool) error {
		list, err := os.ReadDir(filepath.Join(root, rel))
		if err != nil {
			if ignoreVanished && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		for _, d := range list {
			name := path.Join(rel, d.Name())
			if matchAny(s.exclude, name) || (s.from != "" && (rel != "." || d.Name() < s.from || d.Name() > s.to)) {
				continue
			}
			info, err := d.Info()
			if err != nil {
				if ignoreVanished && errors.Is(err, fs.ErrNotExist) {
					continue
				}
				return err
			}
			in := all || matchAny(s.include, name)
			e := entry{name, info}
			switch {
			case in:
				if err := emit(e); err != nil {
					return err
				}
			case info.IsDir():
				pending = append(pending, e)
			}
			if info.IsDir() {
				if err := dir(name, in); err != nil {
					return err
				}
				if n := len(pending); n > 0 && pending[n-1].rel == name {
					pending = pending[:n-1]
				}
			}
		}
		return nil
	}
	if err := visit(entry{".", info}); err != nil {
		return err
	}
	return dir(".", len(s.include) == 0)
}

// measure sums up what is selected.
func (s selection) measure(root string) (bytes, files int64, err error) {
	err = s.walk(root, true, func(e entry) error {
		if e.info.Mode().IsRegular() {
			bytes += e.info.Size()
			files++
		}
		return nil
	})
	return bytes, files, err
}
