package rctl

import (
	"bytes"
	"path/filepath"
	"time"
)

// source is a file of a task's cgroup and what it tells of its usage.
type source struct {
	controller, file string
	optional         bool // not in every kernel
	parse            func(text []byte, u *Usage)
}

// sourcesV1 and sourcesV2 are as few files as tell all; the kernel's work to write each is most of a sample's cost.
var sourcesV1 = []source{
	{controller: "memory", file: "memory.stat", parse: func(text []byte, u *Usage) {
		each(text, func(key []byte, n uint64) bool {
			switch string(key) {
			case "cache":
				u.Cache = n
			case "rss":
				u.RSS = n
			case "swap":
				u.Swap = n
			case "pgpgin": // what is of use stands before
				return false
			}
			return true
		})
	}},
	{controller: "memory", file: "memory.max_usage_in_bytes", parse: func(text []byte, u *Usage) { u.Peak = number(text) }},
	{controller: "cpuacct", file: "cpuacct.usage", parse: func(text []byte, u *Usage) { u.CPU = time.Duration(number(text)) }},
	{controller: "cpuacct", file: "cpuacct.stat", parse: func(text []byte, u *Usage) {
		const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go knows
		each(text, func(key []byte, n uint64) bool {
			switch string(key) {
			case "user":
				u.CPUUser = time.Duration(n) * tick
			case "system":
				u.CPUSystem = time.Duration(n) * tick
			}
			return true
		})
	}},
	{controller: "cpu", file: "cpu.stat", parse: func(text []byte, u *Usage) {
		each(text, func(key []byte, n uint64) bool {
			switch string(key) {
			case "nr_throttled":
				u.ThrottledPeriods = n
			case "throttled_time":
				u.ThrottledTime = time.Duration(n)
			}
			return true
		})
	}},
	{controller: "pids", file: "pids.current", parse: func(text []byte, u *Usage) { u.Procs = int(number(text)) }},
}

var sourcesV2 = []source{
	{controller: "memory", file: "memory.stat", parse: func(text []byte, u *Usage) {
		each(text, func(key []byte, n uint64) bool {
			switch string(key) {
			case "anon":
				u.RSS = n
			case "file":
				u.Cache = n
				return false
			}
			return true
		})
	}},
	{controller: "memory", file: "memory.swap.current", optional: true, parse: func(text []byte, u *Usage) { u.Swap = number(text) }},
	{controller: "memory", file: "memory.peak", optional: true, parse: func(text []byte, u *Usage) { u.Peak = number(text) }},
	{controller: "cpu", file: "cpu.stat", parse: func(text []byte, u *Usage) {
		each(text, func(key []byte, n uint64) bool {
			switch string(key) {
			case "usage_usec":
				u.CPU = time.Duration(n) * time.Microsecond
			case "user_usec":
				u.CPUUser = time.Duration(n) * time.Microsecond
			case "system_usec":
				u.CPUSystem = time.Duration(n) * time.Microsecond
			case "nr_throttled":
				u.ThrottledPeriods = n
			case "throttled_usec":
				u.ThrottledTime = time.Duration(n) * time.Microsecond
			}
			return true
		})
	}},
	{controller: "pids", file: "pids.current", parse: func(text []byte, u *Usage) { u.Procs = int(number(text)) }},
}

// reading is a source with its place on this host, but for the task's name between dir and file.
type reading struct {
	dir, file string
	optional  bool
	parse     func(text []byte, u *Usage)
}

// readings are the files to read for a sample: known once, used for every task.
func (t tree) readings() []reading {
	var all []reading
	for _, h := range t {
		sources := sourcesV1
		if h.v2 {
			sources = sourcesV2
		}
		for _, s := range sources {
			if found, ok := t.find(s.controller); ok && found.dir == h.dir {
				all = append(all, reading{filepath.Join(h.dir, parent) + "/", "/" + s.file, s.optional, s.parse})
			}
		}
	}
	return all
}

// each calls f with every "key number" line until f has enough.
func each(text []byte, f func(key []byte, n uint64) bool) {
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		key, value, ok := bytes.Cut(line, []byte{' '})
		if ok && !f(key, number(value)) {
			return
		}
	}
}

// number reads the decimal digits at the start of text. strconv would want a string.
func number(text []byte) uint64 {
	var n uint64
	for _, c := range text {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	return n
}
