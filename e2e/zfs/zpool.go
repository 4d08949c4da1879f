package main

import (
	"slices"
	"strings"
)

var zpoolCommands = map[string]func([]string) error{
	"create":  zpoolCreate,
	"destroy": zpoolDestroy,
	"get":     zpoolGet,
	"list":    zpoolList,
	"sync":    zpoolSync,
}

// zpoolLacking are today's pool properties with the value that a pool of zfs-fuse has for them.
var zpoolLacking = map[string]string{"readonly": "off", "freeing": "0", "leaked": "0", "fragmentation": "-", "frag": "-", "ckpoint": "-", "expandsz": "-"}

func zpoolCreate(args []string) error {
	o := parse(args, "oOmR")
	o.values['O'] = settable(o.values['O'])
	o.values['o'] = slices.DeleteFunc(o.values['o'], func(p string) bool {
		return strings.HasPrefix(p, "feature@") || strings.HasPrefix(p, "compatibility=") || strings.HasPrefix(p, "autotrim=")
	})
	return change(append([]string{"create"}, o.args("fn")...)...)
}

func zpoolDestroy(args []string) error {
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	return patient(append([]string{"destroy"}, args...)...)
}

// zpoolSync takes back a property that the pool does not have: that ends a transaction group, as every change does.
func zpoolSync(args []string) error {
	path, err := next("zfs")
	if err != nil {
		return err
	}
	real = path
	for _, pool := range parse(args, "").rest {
		if err := change("inherit", "dialect:sync", pool); err != nil {
			return err
		}
	}
	return nil
}

func zpoolList(args []string) error {
	o := parse(args, "oT")
	columns := []string{"name", "size", "allocated", "free", "ckpoint", "expandsz", "frag", "capacity", "dedupratio", "health", "altroot"}
	if asked := o.values['o']; asked != nil {
		columns = strings.Split(strings.Join(asked, ","), ",")
	}
	names, err := output(append([]string{"list", "-H", "-o", "name"}, o.rest...)...)
	if err != nil {
		return err
	}
	table, done := printer(o, columns)
	for _, name := range names {
		found, err := poolProperties(name)
		if err != nil {
			return err
		}
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = poolValue(o, found[c].value)
		}
		table(row)
	}
	return done()
}

func zpoolGet(args []string) error {
	o := parse(args, "o")
	if len(o.rest) < 2 {
		return become(append([]string{"get"}, args...)...)
	}
	asked := strings.Split(o.rest[0], ",")
	columns := []string{"name", "property", "value", "source"}
	if c := o.values['o']; c != nil {
		columns = strings.Split(c[0], ",")
	}
	table, done := printer(o, columns)
	for _, name := range o.rest[1:] {
		found, err := poolProperties(name)
		if err != nil {
			return err
		}
		if o.rest[0] == "all" {
			asked = nil
			for p := range found {
				asked = append(asked, p)
			}
			slices.Sort(asked)
		}
		for _, p := range asked {
			cells := map[string]string{"name": name, "property": p, "value": poolValue(o, found[p].value), "source": found[p].source}
			row := make([]string, len(columns))
			for i, c := range columns {
				row[i] = cells[c]
			}
			table(row)
		}
	}
	return done()
}

func poolProperties(name string) (map[string]property, error) {
	lines, err := output("get", "all", name)
	if err != nil {
		return nil, err
	}
	found := map[string]property{"name": {name, "-"}}
	for p, value := range zpoolLacking {
		found[p] = property{value, "-"}
	}
	for _, line := range lines[1:] {
		if f := strings.Fields(line); len(f) == 4 {
			found[f[1]] = property{f[2], f[3]}
		}
	}
	for short, p := range map[string]string{"alloc": "allocated", "cap": "capacity", "dedup": "dedupratio"} {
		found[short] = found[p]
	}
	return found, nil
}

func poolValue(o options, value string) string {
	switch {
	case value == "":
		return "-"
	case o.has('p'):
		return whole(strings.TrimSuffix(value, "%"))
	}
	return value
}
