package rctl

import (
	"testing"
	"time"
)

func TestSourcesV1(t *testing.T) {
	checkSources(t, sourcesV1, map[string]string{
		"memory.stat":               "cache 4096\nrss 8192\nrss_huge 1\nswap 12288\npgpgin 5\n",
		"memory.max_usage_in_bytes": "99999\n",
		"cpuacct.usage":             "1500000000\n",
		"cpuacct.stat":              "user 120\nsystem 30\n",
		"cpu.stat":                  "nr_periods 10\nnr_throttled 4\nthrottled_time 2500000000\n",
		"pids.current":              "7\n",
	})
}

func TestSourcesV2(t *testing.T) {
	checkSources(t, sourcesV2, map[string]string{
		"memory.stat":         "anon 8192\nfile 4096\nkernel 1\n",
		"memory.swap.current": "12288\n",
		"memory.peak":         "99999\n",
		"cpu.stat":            "usage_usec 1500000\nuser_usec 1200000\nsystem_usec 300000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n",
		"pids.current":        "7\n",
	})
}

func checkSources(t *testing.T, sources []source, files map[string]string) {
	t.Helper()
	var got Usage
	for _, s := range sources {
		text, ok := files[s.file]
		if !ok {
			t.Errorf("%s is not a file of this version", s.file)
		}
		s.parse([]byte(text), &got)
	}
	want := Usage{
		RSS: 8192, Cache: 4096, Swap: 12288, Peak: 99999,
		CPU: 1500 * time.Millisecond, CPUUser: 1200 * time.Millisecond, CPUSystem: 300 * time.Millisecond,
		Procs: 7, ThrottledPeriods: 4, ThrottledTime: 2500 * time.Millisecond,
	}
	if got != want {
		t.Errorf("got  %+v\nwanted %+v", got, want)
	}
}
