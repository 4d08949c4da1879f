package rctl

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRules(t *testing.T) {
	for _, test := range []struct {
		what   string
		limits Limits
		rules  []string
	}{
		{"nothing asked, nothing limited", Limits{}, nil},
		{"memory is a ceiling", Limits{Memory: 64 << 20}, []string{"jail:nj1:memoryuse:sigkill=67108864"}},
		{"a soft limit is the scheduler's", Limits{Memory: 1 << 20, MemorySoft: 1 << 19}, []string{"jail:nj1:memoryuse:sigkill=1048576"}},
		{"shares have no rule", Limits{CPUShares: 500}, nil},
		{"half a core", Limits{CPUQuota: 0.5}, []string{"jail:nj1:pcpu:deny=50"}},
		{"two cores", Limits{CPUQuota: 2}, []string{"jail:nj1:pcpu:deny=200"}},
		{"a thousandth is not unlimited", Limits{CPUQuota: 0.001}, []string{"jail:nj1:pcpu:deny=1"}},
		{"processes and threads", Limits{MaxProc: 50}, []string{"jail:nj1:maxproc:deny=50", "jail:nj1:nthr:deny=50"}},
		{"cores are cpuset(2)'s", Limits{Cores: []int{0, 1}}, nil},
	} {
		t.Run(test.what, func(t *testing.T) {
			if got := rules("nj1", test.limits); !slices.Equal(got, test.rules) {
				t.Errorf("got %q, wanted %q", got, test.rules)
			}
		})
	}
}

// What rctl -u prints on 12.2 for a jail of two processes, on one line as the system call gives it.
const racct = "cputime=3,datasize=5005312,stacksize=0,coredumpsize=0,memoryuse=1806336,memorylocked=0,maxproc=2,openfiles=0," +
	"vmemoryuse=19767296,pseudoterminals=0,swapuse=10518528,nthr=2,msgqqueued=0,msgqsize=0,nmsgq=0,nsem=0,nsemop=0,nshm=0," +
	"shmsize=0,wallclock=315,pcpu=12,readbps=0,writebps=0,readiops=0,writeiops=0"

func TestParseUsage(t *testing.T) {
	got, err := parseUsage(racct)
	want := Usage{RSS: 1806336, CPU: 3 * time.Second, CPUPercent: 12, Procs: 2}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{"", "cputime", "cputime=", "cputime=x", "cputime=1,,"} {
		if _, err := parseUsage(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestRuleNames(t *testing.T) {
	got := ruleNames("jail:nj2:maxproc:deny=50,jail:nj1:memoryuse:sigkill=1,jail:nj2:memoryuse:sigkill=1," +
		"jail:www:maxproc:deny=5,user:nj:maxproc:deny=9,jail:nj1.c:maxproc:deny=5")
	if want := []string{"nj1", "nj1.c", "nj2"}; !slices.Equal(got, want) {
		t.Errorf("got %q, wanted %q", got, want)
	}
	if got := ruleNames(""); len(got) > 0 {
		t.Errorf("no rules, but %q", got)
	}
}

func TestMask(t *testing.T) {
	mask, err := maskOf([]int{0, 9, 63}, 32)
	if want := "\x01\x02\x00\x00\x00\x00\x00\x80" + strings.Repeat("\x00", 24); err != nil || string(mask) != want {
		t.Errorf("got %x, %v", mask, err)
	}
	if _, err := maskOf([]int{256}, 32); err == nil {
		t.Error("core 256 was taken in a mask of 256 bits")
	}
}

func TestNamesAndLimitsThatAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "a..b", "a:b", "a,b", "A", "7", "a b", "nj1."} {
		if _, err := Apply(name, Limits{}); err == nil {
			t.Errorf("the name %q was taken", name)
		}
		if err := Remove(name); err == nil {
			t.Errorf("the name %q was taken by Remove", name)
		}
	}
	for _, l := range []Limits{{CPUQuota: -1}, {Cores: []int{-1}}} {
		if _, err := Apply("nj1", l); err == nil {
			t.Errorf("%+v were taken", l)
		}
	}
}

func TestRacctError(t *testing.T) {
	const (
		off     = "racct is off: add kern.racct.enable=1 to /boot/loader.conf and reboot"
		unbuilt = "this kernel was built without racct or rctl; build it with options RACCT, RACCT_DEFAULT_TO_DISABLED and RCTL"
	)
	for _, c := range []struct {
		enabled []byte
		rctl    bool
		want    string
	}{
		{[]byte{1}, true, ""},
		{[]byte{1, 0, 0, 0}, true, ""},
		{[]byte{0, 0, 0, 1}, true, ""}, // another byte order
		{[]byte{0}, true, off},
		{[]byte{0, 0, 0, 0}, true, off},
		{nil, false, unbuilt},
		{[]byte{1}, false, unbuilt},
		{[]byte{0}, false, unbuilt},
	} {
		err := racctError(c.enabled, c.rctl)
		if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%v, rctl %v: %v, want %q", c.enabled, c.rctl, err, c.want)
		}
	}
}
