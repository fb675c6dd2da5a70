package host

import (
	"os/user"
	"strconv"
	"strings"

	"thaw/blueprints/fault"
)

// ownership is a user and a group, resolved.
type ownership struct {
	uid, gid int
	groups   []uint32
	name     string
	home     string
}

// parseOwner resolves "user", "user:group", or numbers; nil for "".
func parseOwner(text string) (*ownership, error) {
	if text == "" {
		return nil, nil
	}
	name, group, _ := strings.Cut(text, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fault.New(fault.User, "user %q: this host has none of that name", name)
		}
	}
	o := &ownership{name: u.Username, home: u.HomeDir}
	o.uid, _ = strconv.Atoi(u.Uid)
	o.gid, _ = strconv.Atoi(u.Gid)
	if ids, err := u.GroupIds(); err == nil {
		for _, id := range ids {
			if n, err := strconv.Atoi(id); err == nil {
				o.groups = append(o.groups, uint32(n))
			}
		}
	}
	if group == "" {
		return o, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		if g, err = user.LookupGroupId(group); err != nil {
			return nil, fault.New(fault.User, "group %q: this host has none of that name", group)
		}
	}
	o.gid, _ = strconv.Atoi(g.Gid)
	return o, nil
}
