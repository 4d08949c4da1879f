package rctl

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// racctError says what a FreeBSD host lacks whose kern.racct.enable holds enabled, a byte or an int as the release has it, or nothing
// where there is none.
func racctError(enabled []byte, rctl bool) error {
	switch {
	case len(enabled) == 0 || !rctl:
		return errors.New("this kernel was built without racct or rctl; build it with options RACCT, RACCT_DEFAULT_TO_DISABLED and RCTL")
	case len(bytes.Trim(enabled, "\x00")) == 0:
		return errors.New("racct is off: add kern.racct.enable=1 to /boot/loader.conf and reboot")
	}
	return nil
}

// rules are a jail's limits in the words of rctl(8).
func rules(name string, l Limits) []string {
	var r []string
	add := func(resource, action string, amount uint64) {
		if amount > 0 {
			r = append(r, fmt.Sprintf("jail:%s:%s:%s=%d", name, resource, action, amount))
		}
	}
	// Not deny: that only pages the jail's processes out down to the limit.
	add("memoryuse", "sigkill", l.Memory)
	add("pcpu", "deny", percent(l.CPUQuota))
	add("maxproc", "deny", l.MaxProc)
	// As cgroups count them: a process of many threads is as heavy as many processes.
	add("nthr", "deny", l.MaxProc)
	return r
}

// percent of one core, as pcpu counts; a quota below one percent is one, not none.
func percent(cores float64) uint64 {
	if cores == 0 {
		return 0
	}
	return max(uint64(math.Round(cores*100)), 1)
}

// parseUsage reads what rctl_get_racct(2) writes: resource=amount, separated by commas. Of these cputime is in seconds
// and pcpu in percent of one core. Resources that this program does not know are left out: releases add some.
func parseUsage(text string) (Usage, error) {
	var u Usage
	for pair := range strings.SplitSeq(text, ",") {
		resource, amount, ok := strings.Cut(pair, "=")
		n, err := strconv.ParseUint(amount, 10, 64)
		if !ok || err != nil {
			return Usage{}, fmt.Errorf("racct: %q is not resource=amount", pair)
		}
		switch resource {
		case "memoryuse":
			u.RSS = n
		case "cputime":
			u.CPU = time.Duration(n) * time.Second
		case "pcpu":
			u.CPUPercent = float64(n)
		case "nthr":
			u.Procs = int(n)
		}
	}
	return u, nil
}

// label is what every name of ours begins with. rctl(8) has one list of rules for the whole host, others' included.
const label = "nj"

// ruleNames are the names of ours in what rctl_get_rules(2) writes: rules separated by commas, sorted, each name once.
func ruleNames(text string) []string {
	var names []string
	for rule := range strings.SplitSeq(text, ",") {
		fields := strings.Split(rule, ":")
		if len(fields) > 1 && fields[0] == "jail" && strings.HasPrefix(fields[1], label) {
			names = append(names, fields[1])
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// maskOf is a cpuset_t of the given size in bytes: an array of longs, least bit first.
func maskOf(cores []int, size int) ([]byte, error) {
	mask := make([]byte, size)
	for _, c := range cores {
		if c/8 >= size {
			return nil, fmt.Errorf("core %d: this kernel counts to %d", c, size*8-1)
		}
		mask[c/8] |= 1 << (c % 8)
	}
	return mask, nil
}
