package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// TestDoctor examines a host that has everything, and one that has not: what is missing is named, and nothing is claimed of it.
func TestDoctor(t *testing.T) {
	for name, test := range map[string]struct {
		dataset string
		missing string // what storage lacks
	}{
		"everything is there": {dataset: pool.Dataset(t) + "/b"},
		"no pool":             {dataset: "nopool/jails", missing: "zpool list"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"doctor", "--state-dir", t.TempDir(), "--dataset", test.dataset}
			text, _, err := runCommandLine(t, args...)
			if test.missing == "" && err != nil || test.missing != "" && !errors.Is(err, errUnfit) {
				t.Errorf("it ends with %v", err)
			}
			out, _, _ := runCommandLine(t, append(args, "--json")...)
			var parts []partReport
			if err := json.Unmarshal([]byte(out), &parts); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var names []string
			for _, p := range parts {
				names = append(names, p.Name)
				want := ""
				if p.Name == "storage" {
					want = test.missing
				}
				line := "ok       " + p.Name
				if want != "" {
					line = "missing  " + p.Name
				}
				if p.OK != (want == "") || !strings.Contains(p.Missing, want) || !p.OK && len(p.Facts) > 0 || !strings.Contains(text, line) {
					t.Errorf("%+v, and for a person\n%s", p, text)
				}
			}
			if !slices.Equal(names, []string{"kernel", "storage", "limits", "network", "shim"}) {
				t.Errorf("parts %v", names)
			}
		})
	}
}
