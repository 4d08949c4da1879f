package main

import (
	"slices"
	"strconv"
	"strings"
)

// lacking are properties of today's that zfs-fuse has no word for, and where to read something near.
var lacking = map[string]string{
	"written":              "usedbydataset",
	"logicalused":          "used",
	"logicalreferenced":    "referenced",
	"refcompressratio":     "compressratio",
	"jailed":               "zoned",
	"clones":               "", // see clones
	"receive_resume_token": "",
	"encryption":           "",
	"guid":                 "",
	"createtxg":            "",
	"sync":                 "",
	"acltype":              "",
	"dnodesize":            "",
	"relatime":             "",
	"overlay":              "",
	"volmode":              "",
	"snapdev":              "",
	"redundant_metadata":   "",
	"special_small_blocks": "",
	"filesystem_limit":     "",
	"snapshot_limit":       "",
}

// settable leaves out what zfs-fuse cannot set and what makes no difference to who reads the files.
func settable(properties []string) []string {
	var kept []string
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		if near, lacks := lacking[name]; lacks {
			if name != "jailed" {
				continue
			}
			p = near + "=" + value
		}
		if name == "compression" && (value == "lz4" || strings.HasPrefix(value, "zstd")) {
			p = "compression=on"
		}
		if name == "xattr" && value == "sa" {
			p = "xattr=on"
		}
		kept = append(kept, p)
	}
	return kept
}

// types translates the argument of -t.
func types(t string) string {
	short := map[string]string{"fs": "filesystem", "snap": "snapshot", "vol": "volume"}
	var all []string
	for _, name := range strings.Split(t, ",") {
		if long, ok := short[name]; ok {
			name = long
		}
		if name != "bookmark" {
			all = append(all, name)
		}
	}
	return strings.Join(all, ",")
}

type property struct{ value, source string }

// properties reads what is asked for of each of the datasets, sizes in bytes.
func properties(datasets, asked []string) (map[string]map[string]property, error) {
	var have []string
	for _, p := range asked {
		if near, lacks := lacking[p]; lacks {
			p = near
		}
		if p != "" && p != "name" && !slices.Contains(have, p) {
			have = append(have, p)
		}
	}
	found := map[string]map[string]property{}
	for _, d := range datasets {
		found[d] = map[string]property{"name": {d, "-"}}
	}
	if len(have) > 0 && len(datasets) > 0 {
		lines, err := output(append([]string{"get", "-Hp", "-o", "name,property,value,source", strings.Join(have, ",")}, datasets...)...)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			if f := strings.SplitN(line, "\t", 4); len(f) == 4 && found[f[0]] != nil {
				found[f[0]][f[1]] = property{f[2], f[3]}
			}
		}
	}
	if slices.Contains(asked, "clones") {
		if err := addClones(found); err != nil {
			return nil, err
		}
	}
	for _, d := range found {
		for _, p := range asked {
			if near := lacking[p]; near != "" {
				d[p] = d[near]
			}
			if d[p] == (property{}) {
				d[p] = property{"-", "-"}
			}
		}
	}
	return found, nil
}

// addClones fills in the property clones from its opposite, origin.
func addClones(found map[string]map[string]property) error {
	lines, err := output("list", "-H", "-t", "filesystem,volume", "-o", "name,origin")
	if err != nil {
		return err
	}
	for d := range found {
		if strings.Contains(d, "@") {
			found[d]["clones"] = property{"", "-"}
		}
	}
	for _, line := range lines {
		name, origin, _ := strings.Cut(line, "\t")
		if snapshot, ok := found[origin]; ok {
			clones := strings.TrimPrefix(snapshot["clones"].value+","+name, ",")
			snapshot["clones"] = property{clones, "-"}
		}
	}
	return nil
}

// whole is a size such as 1016M in bytes. What is not such a size stays as it is.
func whole(size string) string {
	if size == "" {
		return size
	}
	last := len(size) - 1
	unit := strings.IndexByte("BKMGTPE", size[last])
	number, err := strconv.ParseFloat(size[:last], 64)
	if unit < 0 || err != nil {
		return size
	}
	return strconv.FormatUint(uint64(number*float64(uint64(1)<<(10*unit))), 10)
}
