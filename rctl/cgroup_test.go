package rctl

import (
	"slices"
	"strings"
	"testing"
)

// Hosts as they are found: each controller in a hierarchy of its own (v1), some together (v1 under systemd), all in one
// (v2), and v2 beside v1 with nothing in it.
var (
	v1 = tree{
		{dir: "/cg/cpu", controllers: []string{"cpu"}},
		{dir: "/cg/cpuacct", controllers: []string{"cpuacct"}},
		{dir: "/cg/cpuset", controllers: []string{"cpuset"}, cpus: "0-3", mems: "0"},
		{dir: "/cg/memory", controllers: []string{"memory"}},
		{dir: "/cg/pids", controllers: []string{"pids"}},
		{dir: "/cg/unified", v2: true, controllers: []string{"hugetlb"}},
		{dir: "/cg/freezer", controllers: []string{"freezer"}},
	}
	v1Together = tree{
		{dir: "/cg/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{dir: "/cg/memory", controllers: []string{"memory"}, noSwapCount: true},
		{dir: "/cg/pids", controllers: []string{"pids"}},
	}
	v2 = tree{{dir: "/cg", v2: true, controllers: []string{"cpuset", "cpu", "io", "memory", "pids"}}}
)

func TestPlan(t *testing.T) {
	all := Limits{Memory: 64 << 20, MemorySoft: 32 << 20, CPUShares: 500, CPUQuota: 0.5, Cores: []int{1, 3}, MaxProc: 100}
	for _, test := range []struct {
		what    string
		host    tree
		limits  Limits
		steps   []string
		cgroups []string
		oom     string
	}{
		{
			what: "v1, everything", host: v1, limits: all,
			steps: []string{
				"mkdir /cg/cpu/nomad-driver-jail",
				"mkdir /cg/cpu/nomad-driver-jail/nj1",
				"/cg/cpu/nomad-driver-jail/nj1/cpu.shares = 500",
				"/cg/cpu/nomad-driver-jail/nj1/cpu.cfs_period_us = 100000",
				"/cg/cpu/nomad-driver-jail/nj1/cpu.cfs_quota_us = 50000",
				"mkdir /cg/cpuacct/nomad-driver-jail",
				"mkdir /cg/cpuacct/nomad-driver-jail/nj1",
				"mkdir /cg/cpuset/nomad-driver-jail",
				"/cg/cpuset/nomad-driver-jail/cpuset.cpus = 0-3",
				"/cg/cpuset/nomad-driver-jail/cpuset.mems = 0",
				"mkdir /cg/cpuset/nomad-driver-jail/nj1",
				"/cg/cpuset/nomad-driver-jail/nj1/cpuset.cpus = 1,3",
				"/cg/cpuset/nomad-driver-jail/nj1/cpuset.mems = 0",
				"mkdir /cg/memory/nomad-driver-jail",
				"mkdir /cg/memory/nomad-driver-jail/nj1",
				"/cg/memory/nomad-driver-jail/nj1/memory.limit_in_bytes = 67108864",
				"/cg/memory/nomad-driver-jail/nj1/memory.memsw.limit_in_bytes = 67108864",
				"/cg/memory/nomad-driver-jail/nj1/memory.soft_limit_in_bytes = 33554432",
				"mkdir /cg/pids/nomad-driver-jail",
				"mkdir /cg/pids/nomad-driver-jail/nj1",
				"/cg/pids/nomad-driver-jail/nj1/pids.max = 100",
				"mkdir /cg/freezer/nomad-driver-jail",
				"mkdir /cg/freezer/nomad-driver-jail/nj1",
			},
			cgroups: []string{
				"/cg/cpu/nomad-driver-jail/nj1", "/cg/cpuacct/nomad-driver-jail/nj1", "/cg/cpuset/nomad-driver-jail/nj1",
				"/cg/memory/nomad-driver-jail/nj1", "/cg/pids/nomad-driver-jail/nj1", "/cg/freezer/nomad-driver-jail/nj1",
			},
			oom: "/cg/memory/nomad-driver-jail/nj1/memory.oom_control",
		},
		{
			what: "v1 without a count of swap, memory only", host: v1Together, limits: Limits{Memory: 1 << 20},
			steps: []string{
				"mkdir /cg/cpu,cpuacct/nomad-driver-jail",
				"mkdir /cg/cpu,cpuacct/nomad-driver-jail/nj1",
				"mkdir /cg/memory/nomad-driver-jail",
				"mkdir /cg/memory/nomad-driver-jail/nj1",
				"/cg/memory/nomad-driver-jail/nj1/memory.limit_in_bytes = 1048576",
				"/cg/memory/nomad-driver-jail/nj1/memory.swappiness = 0",
				"mkdir /cg/pids/nomad-driver-jail",
				"mkdir /cg/pids/nomad-driver-jail/nj1",
			},
			cgroups: []string{
				"/cg/cpu,cpuacct/nomad-driver-jail/nj1", "/cg/memory/nomad-driver-jail/nj1", "/cg/pids/nomad-driver-jail/nj1",
			},
			oom: "/cg/memory/nomad-driver-jail/nj1/memory.oom_control",
		},
		{
			what: "v2, everything", host: v2, limits: all,
			steps: []string{
				"/cg/cgroup.subtree_control = +memory +cpu +pids +cpuset",
				"mkdir /cg/nomad-driver-jail",
				"/cg/nomad-driver-jail/cgroup.subtree_control = +memory +cpu +pids +cpuset",
				"mkdir /cg/nomad-driver-jail/nj1",
				"/cg/nomad-driver-jail/nj1/memory.max = 67108864",
				"try /cg/nomad-driver-jail/nj1/memory.swap.max = 0",
				"/cg/nomad-driver-jail/nj1/memory.low = 33554432",
				"/cg/nomad-driver-jail/nj1/cpu.weight = 19",
				"/cg/nomad-driver-jail/nj1/cpu.max = 50000 100000",
				"/cg/nomad-driver-jail/nj1/cpuset.cpus = 1,3",
				"/cg/nomad-driver-jail/nj1/pids.max = 100",
			},
			cgroups: []string{"/cg/nomad-driver-jail/nj1"},
			oom:     "/cg/nomad-driver-jail/nj1/memory.events",
		},
		{
			what: "v2, no limits: still measured", host: v2,
			steps: []string{
				"/cg/cgroup.subtree_control = +memory +cpu +pids",
				"mkdir /cg/nomad-driver-jail",
				"/cg/nomad-driver-jail/cgroup.subtree_control = +memory +cpu +pids",
				"mkdir /cg/nomad-driver-jail/nj1",
			},
			cgroups: []string{"/cg/nomad-driver-jail/nj1"},
			oom:     "/cg/nomad-driver-jail/nj1/memory.events",
		},
	} {
		t.Run(test.what, func(t *testing.T) {
			steps, subject, err := test.host.plan("nj1", test.limits)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range steps {
				got = append(got, s.String())
			}
			if !slices.Equal(got, test.steps) {
				t.Errorf("steps:\n%s\nwanted:\n%s", strings.Join(got, "\n"), strings.Join(test.steps, "\n"))
			}
			if !slices.Equal(subject.Cgroups, test.cgroups) {
				t.Errorf("cgroups: %q, wanted %q", subject.Cgroups, test.cgroups)
			}
			if subject.OOM != test.oom {
				t.Errorf("OOM file: %s, wanted %s", subject.OOM, test.oom)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	readOnly := tree{{dir: "/cg", v2: true, readOnly: true, controllers: []string{"cpuset", "cpu", "memory", "pids"}}}
	for _, test := range []struct {
		what   string
		host   tree
		limits Limits
		reason string
	}{
		{"memory", v1[:3], Limits{Memory: 1},
			"a memory limit is asked for, but this host has no memory cgroup controller: boot with cgroup_enable=memory, or mount it"},
		{"shares", v1[1:], Limits{CPUShares: 1},
			"CPU shares or a CPU quota is asked for, but this host has no cpu cgroup controller: the kernel needs CONFIG_CGROUP_SCHED"},
		{"quota", v1[1:], Limits{CPUQuota: 1},
			"CPU shares or a CPU quota is asked for, but this host has no cpu cgroup controller: the kernel needs CONFIG_CGROUP_SCHED"},
		{"cores", v1Together, Limits{Cores: []int{0}},
			"cores of its own is asked for, but this host has no cpuset cgroup controller: the kernel needs CONFIG_CPUSETS"},
		{"processes", v1[:4], Limits{MaxProc: 1},
			"a limit of processes is asked for, but this host has no pids cgroup controller: the kernel needs CONFIG_CGROUP_PIDS"},
		{"read-only", readOnly, Limits{Memory: 1},
			"a memory limit is asked for, but the memory cgroup controller is mounted read-only at /cg: mount it writable"},
	} {
		t.Run(test.what, func(t *testing.T) {
			_, _, err := test.host.plan("nj1", test.limits)
			if err == nil || err.Error() != test.reason {
				t.Errorf("error: %v\nwanted: %s", err, test.reason)
			}
		})
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	if err := v1.check(); err != nil {
		t.Error(err)
	}
	if err := v2.check(); err != nil {
		t.Error(err)
	}
	wanted := "this host has no memory cgroup controller: boot with cgroup_enable=memory, or mount it\n" +
		"this host has no pids cgroup controller: the kernel needs CONFIG_CGROUP_PIDS"
	if err := v1[:3].check(); err == nil || err.Error() != wanted {
		t.Errorf("error: %v\nwanted: %s", err, wanted)
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 100: 4, 1024: 39, 262_144: 10_000, 1 << 40: 10_000} {
		s := cpuSettings(hierarchy{v2: true}, Limits{CPUShares: max(shares, 1)})
		if got := number([]byte(s[0].value)); got != want {
			t.Errorf("%d shares are weight %d, wanted %d", shares, got, want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	got := parseMounts([]byte(`23 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/a\040b ro,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
`))
	want := tree{
		{dir: "/sys/fs/cgroup/cpu,cpuacct", controllers: []string{"rw", "cpu", "cpuacct"}},
		{dir: "/sys/fs/cgroup/a b", readOnly: true, controllers: []string{"rw", "memory"}},
		{dir: "/sys/fs/cgroup/systemd", controllers: []string{"rw", "name=systemd"}},
		{dir: "/sys/fs/cgroup/unified", v2: true},
	}
	same := func(a, b hierarchy) bool {
		return a.dir == b.dir && a.v2 == b.v2 && a.readOnly == b.readOnly && slices.Equal(a.controllers, b.controllers)
	}
	if !slices.EqualFunc(got, want, same) {
		t.Errorf("got %+v", got)
	}
}
