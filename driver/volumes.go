package driver

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// A CSI plugin publishes an alloc's volume at CSI/TYPE/PLUGIN/per-alloc/ALLOC/VOLUME/USAGE, in Nomad's words.
var usage = regexp.MustCompile(`^(ro|rw)-(file-system|block-device)-[a-z-]+$`)

// volumes are the mounts that Nomad hands over: host volumes, CSI volumes, and what a CSI plugin gets. Nomad makes paths of the names of
// plugins and volumes, even of ".."; those that lead elsewhere are refused. What asks for "bidirectional" propagation gets none: a jail's
// mounts are its own.
func (p *plan) volumes() ([]storage.Mount, error) {
	csi := p.csiFolder()
	var mounts []storage.Mount
	for _, m := range p.cfg.Mounts {
		plugin, _, published := strings.Cut(m.HostPath, "/per-alloc/"+p.cfg.AllocID+"/")
		switch {
		case m.HostPath == "/dev": // a CSI plugin's: all the host's devices, where the jail has its own
			continue
		case csi != "" && m.PropagationMode == "bidirectional" && !p.pluginFolder(csi, m.HostPath):
			return nil, fmt.Errorf("csi_plugin: its id must be one name without a slash; this one leads to %s on the host", m.HostPath)
		case !published && usage.MatchString(filepath.Base(m.HostPath)):
			return nil, fmt.Errorf("CSI volume: its id must not have .. in it; this one leads to %s on the host", m.HostPath)
		}
		v := storage.Bind(m.HostPath, m.TaskPath, m.Readonly)
		if published {
			v.Within = plugin // which may have published a symlink to somewhere on the host
		}
		mounts = append(mounts, v)
	}
	return mounts, nil
}

// csiFolder is Nomad's folder for CSI if the task is a plugin, which has its socket there, else "".
func (p *plan) csiFolder() string {
	for _, m := range p.cfg.Mounts {
		if csi, ok := strings.CutSuffix(m.HostPath, "/plugins/"+p.cfg.AllocID); ok && filepath.Base(csi) == "csi" {
			return csi
		}
	}
	return ""
}

// pluginFolder says whether path is the folder of one plugin's volumes, or of this one's socket.
func (p *plan) pluginFolder(csi, path string) bool {
	kind, name := filepath.Split(path)
	switch {
	case filepath.Dir(filepath.Clean(kind)) != csi:
		return false
	case filepath.Base(kind) == "plugins":
		return name == p.cfg.AllocID
	}
	return slices.Contains([]string{"node", "controller", "monolith"}, filepath.Base(kind))
}
