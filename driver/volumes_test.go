package driver

import (
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// TestCSIPlugin hands over what Nomad does for a csi_plugin, whose id is in the second path.
func TestCSIPlugin(t *testing.T) {
	const csi = "/var/nomad/client/csi"
	cfg := taskWith(t, TaskConfig{})
	socket := csi + "/plugins/" + cfg.AllocID
	for path, ok := range map[string]bool{
		csi + "/node/folders":      true,
		csi + "/monolith/folders":  true,
		csi + "/node/folders/more": false,
		csi + "/plugins/another":   false,
		csi + "/node":              false,
		csi:                        false,
		"/etc":                     false,
	} {
		cfg.Mounts = []*drivers.MountConfig{
			{HostPath: socket, TaskPath: "/csi", PropagationMode: "bidirectional"},
			{HostPath: path, TaskPath: "/volumes", PropagationMode: "bidirectional"},
			{HostPath: "/dev", TaskPath: "/dev"},
		}
		p, err := newPlan(cfg, &Config{})
		if (err == nil) != ok {
			t.Errorf("%s: %v", path, err)
		}
		if err != nil {
			continue
		}
		if got, want := p.given, []storage.Mount{storage.Bind(socket, "/csi", false), storage.Bind(path, "/volumes", false)}; !reflect.DeepEqual(got, want) {
			t.Errorf("mounts are %+v, want %+v", got, want)
		}
	}
}

func TestCSIVolume(t *testing.T) {
	const plugin, usage = "/var/nomad/client/csi/node/folders", "/rw-file-system-single-node-writer"
	cfg := taskWith(t, TaskConfig{})
	mount := func(path string) (*plan, error) {
		cfg.Mounts = []*drivers.MountConfig{{HostPath: path, TaskPath: "/book", Readonly: true}}
		return newPlan(cfg, &Config{})
	}
	for path, within := range map[string]string{plugin + "/per-alloc/" + cfg.AllocID + "/visitors" + usage: plugin, "/srv/media": ""} {
		want := storage.Bind(path, "/book", true)
		want.Within = within
		if p, err := mount(path); err != nil || !reflect.DeepEqual(p.given, []storage.Mount{want}) {
			t.Errorf("%s: %+v, %v", path, p, err)
		}
	}
	for _, path := range []string{plugin + "/per-alloc/another/visitors" + usage, "/tmp" + usage} {
		if _, err := mount(path); err == nil || !strings.HasPrefix(err.Error(), "CSI volume: its id ") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
