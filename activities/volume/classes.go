package volume

import (
	"fmt"
	"slices"
	"strings"
)

// class is a VolumeSnapshotClass or a VolumeGroupSnapshotClass, as far as it
// matters here.
type class struct {
	name      string
	driver    string
	isDefault bool
	retain    bool // its snapshots outlive their objects
}

// choose returns the class of a driver: the one of that name; without a name
// the driver's default, or its only one. what is the kind of class, arg the
// argument that names one.
func choose(classes []class, name, driver, what, arg string) (class, error) {
	if name != "" {
		i := slices.IndexFunc(classes, func(c class) bool { return c.name == name })
		switch {
		case i < 0:
			return class{}, fmt.Errorf("%s %q: not found", what, name)
		case classes[i].driver != driver:
			return class{}, fmt.Errorf("%s %q is of driver %s, the volume is of %s", what, name, classes[i].driver, driver)
		}
		return classes[i], nil
	}
	var own, defaults []class
	var names []string
	for _, c := range classes {
		if c.driver != driver {
			continue
		}
		own, names = append(own, c), append(names, c.name)
		if c.isDefault {
			defaults = append(defaults, c)
		}
	}
	slices.Sort(names)
	switch {
	case len(defaults) == 1:
		return defaults[0], nil
	case len(own) == 1:
		return own[0], nil
	case len(own) == 0:
		return class{}, fmt.Errorf("driver %s has no %s; create one, or keep this volume out with pvcs or selector", driver, what)
	case len(defaults) > 1:
		return class{}, fmt.Errorf("driver %s has more than one default %s; set %s (%s)", driver, what, arg, strings.Join(names, ", "))
	}
	return class{}, fmt.Errorf("driver %s has several %s and none is its default; set %s (%s), or annotate one as default", driver, what, arg, strings.Join(names, ", "))
}
