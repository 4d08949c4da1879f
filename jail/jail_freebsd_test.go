package jail

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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

// TestUnknownParameter: a release that lacks an allowance says which, and makes nothing.
func TestUnknownParameter(t *testing.T) {
	spec := Spec{Name: "nj0123456789ab", Root: t.TempDir()}
	_, err := jailCall(unix.SYS_JAIL_SET, encode(append(parameters(spec), parameter{"allow.nonesuch", nil})), flagCreate)
	if err == nil || err.Error() != "unknown parameter: allow.nonesuch: invalid argument" {
		t.Errorf("error %v", err)
	}
	if _, found, err := Find(spec.Name); found || err != nil {
		t.Errorf("found %v, error %v", found, err)
	}
}
