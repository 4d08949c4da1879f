package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// asProgram has the test's binary be the program.
const asProgram = "NOMAD_DRIVER_JAIL_MAIN"

func program(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	return cmd
}

// partNames are what doctor tells of on this host.
var partNames = map[string][]string{
	"linux":   {"kernel", "storage", "limits", "shim", "forwarding", "bridge", "subnet", "nftables"},
	"freebsd": {"kernel", "storage", "limits", "shim", "devfs", "vnet", "forwarding", "bridge", "subnet", "pf", "pf_anchors"},
}[runtime.GOOS]

// TestDoctor examines a host that has everything, and one that has not: what is missing is named, and nothing is claimed of it.
func TestDoctor(t *testing.T) {
	notDir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(notDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dataset := pool.Dataset(t)
	for name, test := range map[string]struct {
		dataset, state string
		missing        map[string]string // each part's sentence
	}{
		"everything is there": {dataset: dataset + "/b", state: t.TempDir()},
		"no pool":             {dataset: "nopool/jails", state: t.TempDir(), missing: map[string]string{"storage": "zpool list"}},
		"two parts": {dataset: dataset + "/b/c", state: notDir + "/state", missing: map[string]string{
			"storage": "there is no " + dataset + "/b to make it in; zfs create -p " + dataset + "/b makes that",
			"shim":    "give the plugin another state_dir",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"doctor", "--state-dir", test.state, "--dataset", test.dataset}
			text, _, err := runCommandLine(t, args...)
			if len(test.missing) == 0 && err != nil || len(test.missing) > 0 && !errors.Is(err, errUnfit) {
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
				want := test.missing[p.Name]
				line := "ok       " + p.Name
				if want != "" {
					line = "missing  " + p.Name
				}
				if p.OK != (want == "") || !strings.Contains(p.Missing, want) || !p.OK && len(p.Facts) > 0 || !strings.Contains(text, line) {
					t.Errorf("%+v, and for a person\n%s", p, text)
				}
			}
			if !slices.Equal(names, partNames) {
				t.Errorf("parts %v", names)
			}
		})
	}
}

// TestDoctorOnlyLooks: by the configuration that the agent is to read, it makes and remembers nothing.
func TestDoctorOnlyLooks(t *testing.T) {
	dir, dataset := t.TempDir(), pool.Dataset(t)
	file := filepath.Join(dir, "jail.hcl")
	text := fmt.Sprintf("plugin \"nomad-driver-jail\" {\n config {\n dataset = %q\n state_dir = %q\n bridge = \"doctor0\"\n subnet = \"10.88.0.0/16\"\n }\n}\n",
		dataset+"/jails", dir+"/state")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := rulesOf(t)
	out, _, err := runCommandLine(t, "doctor", "--config", file)
	if err != nil || !strings.Contains(out, "store="+dataset+"/jails") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Stat(dir + "/state"); !os.IsNotExist(err) {
		t.Errorf("the state folder: %v", err)
	}
	if _, err := net.InterfaceByName("doctor0"); err == nil {
		t.Error("it made the bridge")
	}
	if list, err := exec.Command("zfs", "list", "-Ho", "name", "-r", dataset).Output(); err != nil || string(list) != dataset+"\n" {
		t.Errorf("it made datasets, or %v: %s", err, list)
	}
	// pf takes its time to drop an anchor that others have emptied.
	for line := range strings.Lines(rulesOf(t)) {
		if !strings.Contains(rules, line) {
			t.Errorf("it added %q to the rules\n%s", line, rules)
		}
	}
}

func rulesOf(t *testing.T) string {
	t.Helper()
	args := []string{"nft", "list", "ruleset"}
	if runtime.GOOS == "freebsd" {
		args = []string{"pfctl", "-v", "-a", "nomad-driver-jail/*", "-s", "Anchors"}
	}
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return string(out)
}

// TestDoctorRemembersNothing: what it was asked about is no other command's store.
func TestDoctorRemembersNothing(t *testing.T) {
	state, dataset := t.TempDir(), pool.Dataset(t)
	if _, _, err := runCommandLine(t, "doctor", "--state-dir", state, "--dataset", dataset+"/asked"); err != nil {
		t.Error(err)
	}
	if _, _, err := runCommandLine(t, "image", "list", "--state-dir", state); err == nil || !strings.Contains(err.Error(), "which store?") {
		t.Errorf("image list: %v", err)
	}
}

// TestImageConfig: image looks where the agent's configuration says, unless it is told otherwise.
func TestImageConfig(t *testing.T) {
	dir := t.TempDir()
	text := fmt.Sprintf("plugin \"nomad-driver-jail\" {\n config {\n directory = %q\n state_dir = %q\n }\n}\n", dir+"/absent/store", dir+"/state")
	if err := os.WriteFile(dir+"/jail.hcl", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := runCommandLine(t, "image", "list", "--config", dir); err == nil || !strings.Contains(err.Error(), dir+"/absent") {
		t.Errorf("image list: %v", err)
	}
	if _, _, err := runCommandLine(t, "image", "list", "--config", dir, "--directory", "/elsewhere"); err == nil || !strings.Contains(err.Error(), "/elsewhere") {
		t.Errorf("with a flag: %v", err)
	}
	if _, _, err := runCommandLine(t, "ps", "--config", dir); err != nil {
		t.Errorf("ps: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	state, dataset := t.TempDir(), pool.Dataset(t)
	for _, x := range []struct {
		args []string
		code int
	}{
		{[]string{"doctor", "--dataset", dataset + "/b"}, 0},
		{[]string{"doctor", "--dataset", dataset + "/b", "--json"}, 0},
		{[]string{"doctor", "--dataset", "nopool/jails"}, 1},
		{[]string{"doctor", "--dataset", "nopool/jails", "--json"}, 1},
		{[]string{"doctor", "--config", "/nowhere"}, 1},
		{[]string{"doctor", "now"}, 2},
		{[]string{"doctor", "--colour"}, 2},
		{[]string{"doctor", "--dataset", dataset, "--directory", "/d"}, 2},
		{[]string{"ps", "all"}, 2},
		{[]string{"gc", "--grace", "never"}, 2},
		{[]string{"image", "list", "--color"}, 2},
		{[]string{"--color"}, 2},
		{[]string{"docter"}, 2},
	} {
		cmd := program(t, nil, x.args...)
		if x.args[0] == "doctor" {
			cmd.Args = append(cmd.Args, "--state-dir", state)
		}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != x.code {
			t.Errorf("%v exits with %d, want %d: %s", x.args, code, x.code, out)
		}
	}
}

// TestDoctorColours: red and green are for a terminal that has them, and for who wants them.
func TestDoctorColours(t *testing.T) {
	const green, red = "\x1b[32mok\x1b[0m", "\x1b[31mmissing\x1b[0m"
	for name, x := range map[string]struct {
		env      []string
		terminal bool
		json     bool
		want     bool
	}{
		"a terminal":            {[]string{"NO_COLOR=", "TERM=xterm"}, true, false, true},
		"a terminal, JSON":      {[]string{"NO_COLOR=", "TERM=xterm"}, true, true, false},
		"NO_COLOR":              {[]string{"NO_COLOR=1", "TERM=xterm"}, true, false, false},
		"TERM=dumb":             {[]string{"NO_COLOR=", "TERM=dumb"}, true, false, false},
		"not a terminal at all": {[]string{"NO_COLOR=", "TERM=xterm"}, false, false, false},
	} {
		cmd := program(t, x.env, "doctor", "--state-dir", t.TempDir(), "--dataset", "nopool/jails")
		if x.json {
			cmd.Args = append(cmd.Args, "--json")
		}
		out := output(t, cmd, x.terminal)
		if !strings.Contains(out, "ok") || !strings.Contains(out, "missing") {
			t.Errorf("%s: it says nothing: %q", name, out)
		}
		if strings.Contains(out, green) != x.want || strings.Contains(out, red) != x.want || strings.Contains(out, "\x1b") != x.want {
			t.Errorf("%s: colours %v: %q", name, !x.want, out)
		}
	}
}

func output(t *testing.T, cmd *exec.Cmd, terminal bool) string {
	t.Helper()
	if !terminal {
		out, _ := cmd.Output()
		return string(out)
	}
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out, _ := io.ReadAll(f) // ends with an error on Linux
	cmd.Wait()
	return string(out)
}
