package audit

import (
	"fmt"
	"os/exec"
	"strings"
)

var host = map[string]func() ([]string, error){
	"mount":         mounts,
	"firewall rule": firewall,
	"jail":          func() ([]string, error) { return command("jls", "-d", "name") },
	"rctl rule":     rules,
}

func mounts() ([]string, error) {
	all, err := command("mount", "-p")
	for i, m := range all {
		if f := strings.Fields(m); len(f) > 2 {
			all[i] = f[1] + " (" + f[2] + " of " + f[0] + ")"
		}
	}
	return all, err
}

// firewall lists the rules of every anchor; without pf there is none.
func firewall() ([]string, error) {
	var found []string
	anchors, err := command("pfctl", "-s", "Anchors", "-v")
	if err != nil {
		return nil, nil
	}
	for _, anchor := range anchors {
		anchor = strings.TrimSpace(anchor)
		for _, kind := range []string{"rules", "nat"} {
			rules, err := command("pfctl", "-a", anchor, "-s", kind)
			if err != nil {
				return nil, err
			}
			for _, rule := range rules {
				found = append(found, anchor+": "+rule)
			}
		}
	}
	return found, nil
}

// rules lists rctl's; without racct there is none.
func rules() ([]string, error) {
	all, err := command("rctl")
	if err != nil {
		return nil, nil
	}
	return all, nil
}

// Processes are the command lines on this host, each after its process ID; ps(1), which tells them, apart.
func Processes() ([]string, error) {
	ps := exec.Command("ps", "-axww", "-o", "pid=", "-o", "command=")
	out, err := ps.Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var found []string
	for _, line := range lines(out) {
		line = strings.TrimSpace(line) // the column is as wide as the longest
		if pid, _, _ := strings.Cut(line, " "); pid != fmt.Sprint(ps.Process.Pid) {
			found = append(found, line)
		}
	}
	return found, nil
}

// OpenFiles are what a process has open, without what tells one pipe or socket from another.
func OpenFiles(pid int) ([]string, error) {
	all, err := command("procstat", "-f", fmt.Sprint(pid))
	var found []string
	for _, line := range all {
		// procstat(1): PID COMM FD T V FLAGS REF OFFSET PRO NAME
		if f := strings.Fields(line); len(f) > 9 && f[0] != "PID" {
			found = append(found, f[3]+" "+f[9])
		}
	}
	return found, err
}
