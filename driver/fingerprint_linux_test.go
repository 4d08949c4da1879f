package driver

import (
	"os/exec"
	"strings"
	"testing"
)

func command(t *testing.T, line string) string {
	t.Helper()
	args := strings.Fields(line)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

func sharedRules(t *testing.T) string { return command(t, "nft list ruleset") }

func flushSharedRules(t *testing.T) { command(t, "nft flush ruleset") }

// breakNetwork has somebody else use the plugin's subnet.
func breakNetwork(t *testing.T) (fault string, mend func()) {
	command(t, "ip link add docker0 type bridge")
	command(t, "ip addr add 10.99.7.1/24 dev docker0")
	return "subnet: subnet 10.99.0.0/16 is already used by interface docker0", func() { command(t, "ip link del docker0") }
}
