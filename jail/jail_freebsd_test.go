package jail

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestHostSecurelevel: the host's own level is the least that a job may ask for, whatever it is.
func TestHostSecurelevel(t *testing.T) {
	out, err := exec.Command("sysctl", "-n", "kern.securelevel").Output()
	if err != nil {
		t.Fatal(err)
	}
	level, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if err := (Params{Securelevel: &level}).Check(); err != nil {
		t.Errorf("the host's: %v", err)
	}
	below := level - 1
	if err := (Params{Securelevel: &below}).Check(); err == nil {
		t.Errorf("%d, where the host has %d: no error", below, level)
	}
}
