package main

import (
	"strings"
	"testing"
)

func TestCgroupRoot(t *testing.T) {
	cases := map[string]string{
		"35 24 0:30 / /sys/fs/cgroup/memory rw,nosuid,nodev,noexec,relatime shared:15 - cgroup cgroup rw,memory": "/sys/fs/cgroup/memory",
		"33 24 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate":                         "/sys/fs/cgroup",
		"33 24 0:28 /docker/1f /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory":                               "", // a container's part of it
		"22 28 0:21 / /proc rw,nosuid - proc proc rw":                                                            "",
		"": "",
	}
	for line, want := range cases {
		got, v2 := cgroupRoot(line)
		if got != want || v2 != strings.HasSuffix(line, "nsdelegate") {
			t.Errorf("%q: %q %v, want %q", line, got, v2, want)
		}
	}
}

func TestInSomeCgroup(t *testing.T) {
	for own, want := range map[string]bool{
		"9:name=systemd:/\n8:pids:/\n0::/\n":                     false,
		"9:name=systemd:/system.slice/nomad.service\n8:pids:/\n": true,
		"0::/system.slice/nomad.service\n":                       true,
		"":                                                       false,
	} {
		if got := inSomeCgroup(own); got != want {
			t.Errorf("%q: %v", own, got)
		}
	}
}
