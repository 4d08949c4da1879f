package driver

import (
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
	"github.com/nomad-driver-jail/nomad-driver-jail/network"
)

// TestDefaultHostname gives names of tasks to those who refuse a host's name.
func TestDefaultHostname(t *testing.T) {
	long := strings.Repeat("a", 54)
	for task, want := range map[string]string{
		"web":             "web-0b9e4c7a",
		"Web_1.api-v2":    "Web_1.api-v2-0b9e4c7a",
		"my web":          "my-web-0b9e4c7a",
		"a:b\n#c":         "a-b--c-0b9e4c7a",
		"größe":           "gr--e-0b9e4c7a",
		"\xff-web":        "web-0b9e4c7a",
		"-web.":           "web-0b9e4c7a",
		"日本":              "0b9e4c7a",
		long:              long + "-0b9e4c7a",
		long + "b":        long + "-0b9e4c7a",
		long[1:] + " b c": long[1:] + "-0b9e4c7a",
	} {
		s := start{plan: &plan{cfg: &drivers.TaskConfig{Name: task, AllocID: "0b9e4c7a-54d2-4f3e-8b26-1f0d2f6f9f11"}}}
		got := s.hostname()
		if got != want {
			t.Errorf("%q: got %q, want %q", task, got, want)
		}
		spec := jail.Spec{Name: Name(task), Hostname: got, Root: "/root"}
		if err := spec.Check(); err != nil {
			t.Errorf("%q: %v", task, err)
		}
		if _, err := network.Hosts(got, network.Attachment{}, nil); err != nil {
			t.Errorf("%q: %v", task, err)
		}
	}
}
