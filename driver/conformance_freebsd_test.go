package driver

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers/testutils"
)

// execConformance is Nomad's, but for two things that only Linux has: how stty(1) words its complaint, and
// /proc/self/cgroup, by which Nomad sees the isolation.
func execConformance(t *testing.T, h *testutils.DriverHarness, taskID string) {
	for i, c := range testutils.ExecTaskStreamingBasicCases {
		if c.Name == "notty: stty check" {
			testutils.ExecTaskStreamingBasicCases[i].Stderr = regexp.MustCompile("stty: stdin isn't a terminal\n")
		}
	}
	testutils.TestExecTaskStreamingBasicResponses(t, h, taskID)

	const text = "hello from the other side"
	code, out, _ := testutils.ExecTask(t, h, taskID, `file=/tmp/side.$$; echo "`+text+`" > "$file"; echo "$file"`, false, "")
	file := strings.TrimSpace(out)
	if code != 0 || file == "" {
		t.Fatalf("exit code %d, %q", code, out)
	}
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the task's %s is a file of the host: %v", file, err)
	}
	if code, out, _ := testutils.ExecTask(t, h, taskID, "cat "+file, false, ""); code != 0 || strings.TrimSpace(out) != text {
		t.Errorf("exit code %d, %q", code, out)
	}
}

// tty(1) is not in /rescue.
const terminalName = `name=/dev/$(ps -o tty= -p $$); test -c $name && echo $name`
