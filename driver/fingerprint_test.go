package driver

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/network"
)

func TestSupported(t *testing.T) {
	for _, x := range []struct{ goos, release, want string }{
		{"freebsd", "12.2-RELEASE-p3", ""},
		{"freebsd", "15.0-CURRENT", ""},
		{"linux", "6.1.0-18-amd64", ""},
		{"freebsd", "12.1-RELEASE", "FreeBSD 12.1-RELEASE is too old for this driver, which needs 12.2 or newer: upgrade with freebsd-update(8)"},
		{"freebsd", "9.3-RELEASE", "FreeBSD 9.3-RELEASE is too old for this driver, which needs 12.2 or newer: upgrade with freebsd-update(8)"},
	} {
		if err := supported(x.goos, x.release); (err != nil || x.want != "") && (err == nil || err.Error() != x.want) {
			t.Errorf("%s %s: %v", x.goos, x.release, err)
		}
	}
}

// wantHealth of a new fingerprint: fault is a part and the beginning of its sentence, or "".
func wantHealth(t *testing.T, d *Driver, when, fault string) {
	t.Helper()
	f := d.fingerprint(context.Background())
	want := drivers.HealthStateHealthy
	if fault != "" {
		want = drivers.HealthStateUnhealthy
		part, _, _ := strings.Cut(fault, ":")
		if got, ok := f.Attributes["driver.jail."+part].GetBool(); !ok || got {
			t.Errorf("%s: attribute %s is not false", when, part)
		}
	}
	if f.Health != want || fault != "" && !strings.HasPrefix(f.HealthDescription, fault) {
		t.Errorf("%s: %s: %s", when, f.Health, f.HealthDescription)
	}
}

// TestLostRulesComeBack: a flushed ruleset is repaired by the same plugin.
func TestLostRulesComeBack(t *testing.T) {
	d := prepared(t, testConfig(t))
	wantHealth(t, d, "at first", "")
	before := sharedRules(t)
	flushSharedRules(t)
	if sharedRules(t) == before {
		t.Fatal("nothing was flushed, so this shows nothing")
	}
	wantHealth(t, d, "after the flush", "")
	if got := sharedRules(t); got != before {
		t.Errorf("the rules are\n%s\nand were\n%s", got, before)
	}
}

// TestFaultComesAndGoes: a part that is taken away is named, a job that needs it is refused with that, and the same plugin goes on when
// it is there again.
func TestFaultComesAndGoes(t *testing.T) {
	h, d := harnessWith(t, testConfig(t))
	wantHealth(t, d, "at first", "")
	fault, mend := breakNetwork(t)
	wantHealth(t, d, "without it", fault)
	cfg := newTaskConfig(t, h, "sleep 1000")
	_, sentence, _ := strings.Cut(fault, ": ")
	if _, _, err := h.StartTask(cfg); err == nil || !strings.Contains(err.Error(), sentence) {
		t.Errorf("a start ends with %v", err)
	}
	mend()
	startTask(t, h, cfg) // before the next fingerprint
	wantHealth(t, d, "mended", "")
	if err := h.DestroyTask(cfg.ID, true); err != nil {
		t.Error(err)
	}
}

// TestLostStoreComesBack is told once.
func TestLostStoreComesBack(t *testing.T) {
	config := testConfig(t)
	d := prepared(t, config)
	if err := os.RemoveAll(config.Directory); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, d, "destroyed", "storage: directory "+config.Directory+" is not made yet")
	wantHealth(t, d, "afterwards", "")
}

// TestMerge: what Prepare failed at is the fault of a part in which nothing else was found.
func TestMerge(t *testing.T) {
	fault := failedPart("network", &network.Fault{Part: "pf"})
	got := merge([]Part{{Name: "pf", Facts: map[string]string{"a": "b"}}, {Name: "shim", Err: errNoStore}},
		[]Part{fault, {Name: "shim", Err: context.Canceled}, {Name: "network", Err: context.Canceled}})
	if len(got) != 3 || got[0].Err != fault.Err || got[0].Facts != nil || got[1].Err != errNoStore || got[2].Name != "network" {
		t.Errorf("%+v", got)
	}
}
