package main

import (
	"slices"
	"testing"
)

func TestCgroupRoot(t *testing.T) {
	cases := map[string][]string{
		"35 24 0:30 / /sys/fs/cgroup/cpu rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct":   {"/sys/fs/cgroup/cpu", "rw", "cpu", "cpuacct"},
		"36 24 0:31 / /sys/fs/cgroup/systemd rw shared:16 - cgroup cgroup rw,xattr,name=systemd": {"/sys/fs/cgroup/systemd", "rw", "xattr", "name=systemd"},
		"33 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate":         {"/sys/fs/cgroup", version2},
		"33 24 0:28 /docker/1f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory":               {""}, // a container's part of it
		"22 28 0:21 / /proc rw,nosuid - proc proc rw":                                            {""},
		"": {""},
	}
	for line, want := range cases {
		if dir, names := cgroupRoot(line); !slices.Equal(append([]string{dir}, names...), want) {
			t.Errorf("%q: %q %q, want %q", line, dir, names, want)
		}
	}
}

func TestBelowRoot(t *testing.T) {
	for own, want := range map[string][]string{
		"9:name=systemd:/\n8:pids:/\n0::/\n":                                 nil,
		"9:name=systemd:/system.slice/nomad.service\n8:cpu,cpuacct:/a\n0::/": {"name=systemd", "cpu"},
		"0::/system.slice/nomad.service\n":                                   {version2},
		"":                                                                   nil,
	} {
		if got := belowRoot(own); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", own, got, want)
		}
	}
}
