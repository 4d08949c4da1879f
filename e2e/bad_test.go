package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
)

// badJobs are mistakes of a job author or of a registry. Each differs in one thing from a job that runs; sentence is a regular expression that
// the one line which Nomad shows has to match.
var badJobs = []struct {
	name     string
	config   map[string]any // over the good one
	user     string
	sentence string
}{
	{name: "unknown image", config: image("", "nothing:1.0"), sentence: `nothing:1\.0.*(404|not found)`},
	{name: "unknown tag", config: image("", "web:9.9"), sentence: `web:9\.9.*(404|not found)`},
	{name: "registry does not listen", config: map[string]any{"image": "http://127.0.0.1:1/web:1.0"}, sentence: `web:1\.0.*connection refused`},
	{name: "registry has no such name", config: map[string]any{"image": "http://registry.invalid/web:1.0"}, sentence: `registry\.invalid`},
	{name: "registry answers 404", config: image("/not-found", "web:1.0"), sentence: `web:1\.0.*(404|not found)`},
	{name: "registry answers 500", config: image("/broken", "web:1.0"), sentence: `web:1\.0.*500`},
	{name: "registry answers nothing", config: image("/silent", "web:1.0"), sentence: `web:1\.0.*EOF`},
	{name: "manifest is not JSON", config: image("/not-json", "web:1.0"), sentence: `web:1\.0.*JSON`},
	{name: "manifest names another image", config: image("/other-name", "web:1.0"), sentence: `web:1\.0.*other`},
	{name: "image for another OS", config: image("/other-os", "web:1.0"), sentence: `web:1\.0.*plan9`},
	{name: "image for another architecture", config: image("/other-arch", "web:1.0"), sentence: `web:1\.0.*vax`},
	{name: "digest differs", config: image("/other-digest", "web:1.0"), sentence: `web:1\.0.*sha256:abab`},
	{name: "stream cut short", config: image("/cut-short", "web:1.0"), sentence: `web:1\.0.*(short|cut|ended)`},
	{name: "no image", config: map[string]any{"image": ""}, sentence: `image`},
	{name: "image without tag", config: image("", "web"), sentence: `web.*tag`},

	{name: "copy without colon", config: map[string]any{"copy": []string{"local/file"}}, sentence: `copy "local/file".*colon`},
	{name: "mount without colon", config: map[string]any{"mount": []string{"local/file"}}, sentence: `mount "local/file".*colon`},
	{name: "copy of nothing", config: map[string]any{"copy": []string{"local/nothing:/etc/nothing"}}, sentence: `copy "local/nothing:/etc/nothing".*no such file`},
	{name: "mount of nothing", config: map[string]any{"mount": []string{"local/nothing:/mnt"}}, sentence: `mount .*local/nothing.*no such file`},
	{name: "copy from outside", config: map[string]any{"copy": []string{"local/../../../secret:/etc/x"}}, sentence: `copy.*\.\.`},
	{name: "mount to outside", config: map[string]any{"mount": []string{"local:/mnt/../../x"}}, sentence: `mount.*\.\.`},
	{name: "copy through a symlink", config: map[string]any{"copy": []string{"local:/escape-relative/tmp"}}, sentence: `copy "local:/escape-relative/tmp".*(escapes|leaves|outside)`},
	{name: "mount through a symlink", config: map[string]any{"mount": []string{"local:/escape-relative/tmp"}}, sentence: `/escape-relative/tmp.*(escapes|leaves|outside|symlink)`},
	{name: "copy of a host path", config: map[string]any{"copy": []string{"/etc/passwd:/etc/x"}}, sentence: `copy "/etc/passwd:/etc/x".*not allowed.*host_paths`},
	{name: "mount of a host path", config: map[string]any{"mount_read_only": []string{"/etc:/mnt"}}, sentence: `mount_read_only "/etc:/mnt".*not allowed.*host_paths`},
	{name: "mount of a host path for writing", config: map[string]any{"mount": []string{"MEDIA:/mnt"}}, sentence: `mount ".*:/mnt".*reading only`},

	{name: "unknown port", config: map[string]any{"ports": []string{"htpp"}}, sentence: `port "htpp"`},
	{name: "unknown port of port_map", config: map[string]any{"port_map": []map[string]string{{"htpp": "80"}}}, sentence: `port "htpp"`},
	{name: "port without a network", config: map[string]any{"network_mode": "none", "ports": []string{"http"}}, sentence: `network_mode "none" no port`},
	{name: "another port on the host's network", config: map[string]any{"network_mode": "host", "ports": []string{"http"}}, sentence: `"http" is the host's \d+ and cannot be 8080`},
	{name: "unknown network_mode", config: map[string]any{"network_mode": "bridged"}, sentence: `network_mode "bridged"`},

	{name: "command is not there", config: map[string]any{"command": "/bin/nothing"}, sentence: `/bin/nothing.*not in the image`},
	{name: "command is nowhere in PATH", config: map[string]any{"command": "nothing"}, sentence: `nothing.*not in the image`},
	{name: "command is a text", config: map[string]any{"command": "/etc/motd"}, sentence: `/etc/motd.*not executable`},
	{name: "unknown user", user: "mallory", sentence: `user.*mallory`},
	{name: "unknown option", config: map[string]any{"imgae": "x"}, sentence: `imgae`},
	{name: "permission not given", config: map[string]any{"allow": []string{"sysvipc"}}, sentence: `sysvipc.*not allowed`},
}

func image(fault, name string) map[string]any {
	return map[string]any{"image": "REGISTRY" + fault + "/" + name}
}

func TestBadJobs(t *testing.T) {
	before, err := here.Holdings()
	if err != nil {
		t.Error(err)
	}
	t.Run("each", func(t *testing.T) {
		for _, bad := range badJobs {
			t.Run(bad.name, func(t *testing.T) {
				t.Parallel()
				config := map[string]any{"image": "REGISTRY/web:1.0", "command": "/bin/true"}
				for k, v := range bad.config {
					config[k] = v
				}
				task := newTask("bad", "jail", config)
				task.User = bad.user
				expect(t, oneOff(t, task), bad.sentence)
			})
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		after, err := here.Holdings()
		if err != nil || len(after) != len(before) {
			t.Errorf("%d tasks before, now %+v, %v", len(before), after, err)
		}
	})
}

// TestOnePortTwoTasks has two tasks of a group ask for the same host port.
func TestOnePortTwoTasks(t *testing.T) {
	config := map[string]any{"image": "REGISTRY/web:1.0", "ports": []string{"http"}}
	first := newTask("first", "jail", config)
	second := newTask("second", "jail", config)
	expect(t, oneOff(t, first, second), `port "http".*host port .*\d+/tcp.*task nj[0-9a-f]+ has it`)
}

// oneOff runs tasks in one group, once, with nothing tried again.
func oneOff(t *testing.T, tasks ...*nomad.Task) *cluster.Job {
	t.Helper()
	none, label, no := 0, "http", false
	group := nomad.NewTaskGroup("bad", 1)
	group.RestartPolicy = &nomad.RestartPolicy{Attempts: &none}
	group.ReschedulePolicy = &nomad.ReschedulePolicy{Attempts: &none, Unlimited: &no}
	group.Networks = []*nomad.NetworkResource{{DynamicPorts: []nomad.Port{{Label: label, To: 8080}}}}
	for _, task := range tasks {
		cpu, memory := 50, 32
		task.Resources = &nomad.Resources{CPU: &cpu, MemoryMB: &memory}
		task.Config = fill(task.Config).(map[string]any)
		group.AddTask(task)
	}
	id := regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-")
	job, err := here.Register(nomad.NewBatchJob(id, id, "global", 50).AddTaskGroup(group))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, job) })
	return job
}

// fill puts this site's paths into a configuration.
func fill(value any) any {
	switch v := value.(type) {
	case string:
		return strings.NewReplacer("REGISTRY", here.Registry, "MEDIA", here.Media).Replace(v)
	case []string:
		var filled []string
		for _, s := range v {
			filled = append(filled, fill(s).(string))
		}
		return filled
	case map[string]any:
		filled := map[string]any{}
		for k, each := range v {
			filled[k] = fill(each)
		}
		return filled
	}
	return value
}

// expect waits for the end of a job that cannot run, and looks for the reason where its author would.
func expect(t *testing.T, job *cluster.Job, sentence string) {
	t.Helper()
	alloc := ended(t, job)
	if alloc.ClientStatus != nomad.AllocClientStatusFailed {
		t.Errorf("the alloc is %s, want it failed", alloc.ClientStatus)
	}
	var said []string
	for _, state := range alloc.TaskStates {
		for _, event := range state.Events {
			switch event.Type {
			case nomad.TaskDriverFailure:
				said = append(said, event.DisplayMessage)
			case nomad.TaskFailedValidation: // Nomad's own, which takes several lines
				said = append(said, strings.Join(strings.Fields(event.DisplayMessage), " "))
			}
		}
	}
	ok := slices.ContainsFunc(said, func(s string) bool { return regexp.MustCompile(sentence).MatchString(s) && !strings.Contains(s, "\n") })
	if !ok {
		t.Errorf("Nomad says\n\t%s\nwant one line that matches %s", strings.Join(said, "\n\t"), sentence)
	} else {
		t.Log(strings.Join(said, fmt.Sprintln()))
	}
}
