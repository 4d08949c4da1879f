package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
)

func testCSIPlugin(t *testing.T) {
	publishCSIPlugin(t)
	alloc := running(t, runExample(t, "csi-plugin"))
	waitUntil(t, "Nomad calls the plugin healthy", func() (bool, error) {
		plugin, _, err := here.Cluster.Nomad.CSIPlugins().Info("folders", nil)
		return err == nil && plugin.NodesHealthy == 1, err
	})
	if devices := shell(t, alloc, "plugin", "ls /dev/mem /dev/kmsg 2>/dev/null || true"); devices != "" {
		t.Errorf("of the host's devices it has %s", devices)
	}
	t.Run("csi-volume", testCSIVolume)
}

func publishCSIPlugin(t *testing.T) {
	root := t.TempDir()
	program, err := os.ReadFile(here.Bin.CSI)
	err = errors.Join(err, rootfs.Make(root, ""), os.WriteFile(filepath.Join(root, "usr/local/bin/csi-folders"), program, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	if err := here.Publish("csi-folders:1.0", root, "--cmd", "/usr/local/bin/csi-folders"); err != nil {
		t.Fatal(err)
	}
}

func testCSIVolume(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Nomad's client mounts CSI volumes on Linux only, whatever the driver; TestJobs shows it there")
	}
	volumes := here.Cluster.Nomad.CSIVolumes()
	if _, err := volumes.Register(&nomad.CSIVolume{
		ID: "visitors", Name: "visitors", ExternalID: "visitors", PluginID: "folders",
		RequestedCapabilities: []*nomad.CSIVolumeCapability{{AccessMode: "single-node-writer", AttachmentMode: "file-system"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	var want string
	for range 2 {
		job := runExample(t, "csi-volume")
		alloc := complete(t, job)
		want += alloc.ID + "\n"
		if book := waitLog(t, alloc, "visitor", "stdout", alloc.ID); book != want {
			t.Errorf("in the volume is\n%swant\n%s", book, want)
		}
		stop(t, job)
		waitUntil(t, "the volume is free", func() (bool, error) {
			volume, _, err := volumes.Info("visitors", nil)
			return err == nil && len(volume.WriteAllocs) == 0, err
		})
	}
	if err := volumes.Deregister("visitors", false, nil); err != nil {
		t.Error(err)
	}
}

// TestCSIPluginElsewhere asks by the plugin's name for a folder of the host, which Nomad hands over.
func TestCSIPluginElsewhere(t *testing.T) {
	task := newTask("bad", "jail", map[string]any{"image": "REGISTRY/web:1.0", "command": "/bin/true"})
	task.CSIPluginConfig = &nomad.TaskCSIPluginConfig{ID: "../../..", Type: "node", MountDir: "/csi"}
	expect(t, oneOff(t, task), `csi_plugin: its id must be one name.*leads to /`)
}
