package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const agentHCL = `
datacenter = "dc1"
client { enabled = true }
plugin "raw_exec" {
  config { enabled = true }
}
plugin "nomad-driver-jail" {
  args = ["--driver-name=pot"]
  config {
    dataset    = "tank/jails"
    state_dir  = "/srv/state"
    host_paths = ["/srv/media:ro"]
    consul { ttl = "10s" }
  }
}
`

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadAgentConfig(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"HCL":                 {"jail.hcl": agentHCL},
		"JSON":                {"jail.json": `{"plugin": {"nomad-driver-jail": {"config": {"dataset": "tank/jails", "state_dir": "/srv/state", "consul": {"ttl": "10s"}}}}}`},
		"pot":                 {"jail.hcl": strings.Replace(agentHCL, `"nomad-driver-jail"`, `"pot"`, 1)},
		"the last of two":     {"a.hcl": strings.Replace(agentHCL, "tank", "old", 1), "b.hcl": agentHCL, "c.hcl": `plugin "nomad-driver-jail" {}`},
		"what is not agent's": {"jail.hcl": agentHCL, ".#x.hcl": "{", "x.hcl~": "{", "README": "{"},
	} {
		dir := t.TempDir()
		for file, text := range files {
			write(t, dir, file, text)
		}
		c, found, err := readAgentConfig(dir)
		if err != nil || !found || c.Dataset != "tank/jails" || c.StateDir != "/srv/state" || c.Consul.TTL != "10s" || c.Bridge != "jail0" || c.Images.Retry != "10s" {
			t.Errorf("%s: found %v, %v: %+v", name, found, err, c)
		}
	}
}

func TestBadAgentConfig(t *testing.T) {
	for text, want := range map[string]string{
		`client { enabled = true }`:                                                 `there is no block plugin "nomad-driver-jail"`,
		`plugin "nomad-driver-jail" { config { dataset = `:                          `jail.hcl: `,
		`plugin "nomad-driver-jail" { config { datasett = "a" } }`:                  `No argument or block type is named "datasett"`,
		`plugin "nomad-driver-jail" { config { dataset = "a", directory = "/b" } }`: `dataset and directory exclude each other`,
	} {
		_, err := FindConfig(write(t, t.TempDir(), "jail.hcl", text), "", "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := FindConfig("/nowhere", "", ""); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestFindConfig: the command line's choice goes before what the plugin used, and that before what the agent is to read.
func TestFindConfig(t *testing.T) {
	used, fresh, usual := t.TempDir(), t.TempDir(), t.TempDir()
	last := DefaultConfig()
	last.Dataset, last.StateDir = "tank/used", used
	if err := last.save(); err != nil {
		t.Fatal(err)
	}
	write(t, usual, "jail.hcl", agentHCL)
	chosen := write(t, t.TempDir(), "mine.hcl", strings.Replace(agentHCL, "tank", "mine", 1))
	for name, x := range map[string]struct{ path, stateDir, usual, dataset, state string }{
		"the command line's":   {chosen, "", usual, "mine/jails", "/srv/state"},
		"with a state folder":  {chosen, used, usual, "mine/jails", used},
		"the plugin's":         {"", used, usual, "tank/used", used},
		"the agent's":          {"", fresh, usual, "tank/jails", fresh},
		"the defaults":         {"", fresh, fresh, "", fresh},
		"the defaults, no dir": {"", fresh, "/nowhere", "", fresh},
	} {
		c, err := FindConfig(x.path, x.stateDir, x.usual)
		if err != nil || c.Dataset != x.dataset || c.StateDir != x.state || c.Bridge != "jail0" {
			t.Errorf("%s: %v: dataset %q, state_dir %q", name, err, c.Dataset, c.StateDir)
		}
	}
}
