package driver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/nomad/helper/pluginutils/hclspecutils"
	"github.com/hashicorp/nomad/helper/pluginutils/hclutils"
	"github.com/hashicorp/nomad/nomad/structs/config"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/zclconf/go-cty/cty/msgpack"
)

// FindConfig is the configuration that the command line asks about: that in path, a file or folder of Nomad's agent configuration. Without
// a path it is that of the plugin that prepared this host last, or, before one did, that in the folder usual, or the defaults.
func FindConfig(path, stateDir, usual string) (Config, error) {
	c, err := findConfig(path, stateDir, usual)
	if err != nil {
		return c, err
	}
	c.StateDir = cmp.Or(stateDir, c.StateDir)
	return c, c.check()
}

func findConfig(path, stateDir, usual string) (Config, error) {
	if path != "" {
		c, found, err := readAgentConfig(path)
		if err == nil && !found {
			err = fmt.Errorf("%s: there is no block plugin %q", path, pluginName)
		}
		return c, err
	}
	c, found, err := lastConfig(cmp.Or(stateDir, defaultStateDir))
	if found || err != nil {
		return c, err
	}
	c, found, err = readAgentConfig(usual)
	if found || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	return DefaultConfig(), nil
}

// pluginName is how Nomad's agent calls the plugin: by the name of its file. An operator who has jobspecs for another driver may have
// named the file, or registered the driver, as that is called.
const pluginName = "nomad-driver-jail"

var pluginNames = []string{pluginName, DefaultName, "pot"}

// readAgentConfig reads the plugin's block as Nomad's agent does: of several files, the last that has one.
func readAgentConfig(path string) (c Config, found bool, err error) {
	files, err := agentFiles(path)
	if err != nil {
		return c, false, err
	}
	blocks := map[string]*config.PluginConfig{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return c, false, err
		}
		var agent struct {
			Plugins []*config.PluginConfig `hcl:"plugin"`
		}
		if err := hcl.Decode(&agent, string(data)); err != nil {
			return c, false, fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range agent.Plugins {
			if old := blocks[p.Name]; old != nil {
				p = old.Merge(p)
			}
			blocks[p.Name] = p
		}
	}
	for _, name := range pluginNames {
		if p := blocks[name]; p != nil {
			if c, err = decodeConfig(p.Config); err != nil {
				err = fmt.Errorf("%s: plugin %q: %w", path, name, err)
			}
			return c, true, err
		}
	}
	return c, false, nil
}

// agentFiles are those of a folder that Nomad's agent reads, in its order.
func agentFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	var files []string
	for _, e := range entries {
		editors := strings.HasPrefix(e.Name(), ".#") || strings.HasPrefix(e.Name(), "#")
		if !e.IsDir() && !editors && slices.Contains([]string{".hcl", ".json"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	return files, err
}

// decodeConfig checks a block by the plugin's schema and decodes it, as Nomad and then SetConfig do.
func decodeConfig(block map[string]any) (c Config, err error) {
	spec, diagnostics := hclspecutils.Convert(configSpec)
	if diagnostics.HasErrors() {
		return c, diagnostics
	}
	if block == nil {
		block = map[string]any{}
	}
	value, _, problems := hclutils.ParseHclInterface(block, spec, nil)
	if len(problems) > 0 {
		return c, errors.Join(problems...)
	}
	data, err := msgpack.Marshal(value, value.Type())
	if err != nil {
		return c, err
	}
	return c, base.MsgPackDecode(data, &c)
}
