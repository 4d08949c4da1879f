package main

import "testing"

func TestParseOOM(t *testing.T) {
	for text, want := range map[string]int{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":                3, // cgroup v1, memory.oom_control
		"low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n": 1, // v2, memory.events
		"": 0,
	} {
		if got := parseOOM([]byte(text)); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestProgramRange(t *testing.T) {
	cases := []struct {
		line string
		want bool
	}{
		{"00400000-00515000 r-xp 00000000 fe:00 9997470                            /tmp/shim", true},
		{"00515000-00652000 r--p 00115000 fe:00 9997470                            /tmp/shim", true},
		{"00652000-00670000 rw-p 00252000 fe:00 9997470                            /tmp/shim", false},
		{"160078000000-16007ac00000 ---p 00000000 00:00 0 ", false},
		{"7f81c5a66000-7f81c5a68000 r-xp 00000000 00:00 0                          [vdso]", false},
	}
	for _, c := range cases {
		if from, to, got := programRange(c.line); got != c.want || got && (from == 0 || to <= from) {
			t.Errorf("%q: %x-%x %v", c.line, from, to, got)
		}
	}
}
