// Command imports checks who may import whom, as the layout in docs/contributors.md says. It runs in the module's root.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const (
	module = "github.com/nomad-driver-jail/nomad-driver-jail"
	nomad  = "github.com/hashicorp/nomad"
)

// knows lists for each folder the folders of ours that its packages may import beside themselves; "nomad" lets Nomad's packages in.
var knows = map[string][]string{
	"rctl":    {},
	"network": {},
	"storage": {},
	"jail":    {},
	"health":  {},
	// A program, which composes as main does.
	"jail/shim": {"jail", "network"},
	"image":     {"storage"},
	"driver":    {"nomad", "rctl", "network", "storage", "jail", "health", "image"},
	".":         {"nomad", "driver", "rctl", "network", "storage", "jail", "health", "image"},
	"e2e":       {"nomad", "examples", "driver", "rctl", "network", "storage", "jail", "health", "image"},
	"examples":  {},
	"deps":      {"nomad"},
}

// testHelp is open to the tests of every folder, which need its pool and its host.
const testHelp = "e2e"

type pkg struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

func main() {
	wrong, err := check(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, w := range wrong {
		fmt.Println(w)
	}
	if len(wrong) > 0 {
		os.Exit(1)
	}
}

func check(patterns []string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var wrong []string
	for decoder := json.NewDecoder(out); ; {
		var p pkg
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return wrong, cmd.Wait()
		}
		if err != nil {
			return nil, err
		}
		wrong = append(wrong, judge(p)...)
	}
}

func judge(p pkg) []string {
	from := folder(p.ImportPath)
	allowed, ok := knows[from]
	if !ok {
		return []string{fmt.Sprintf("%s: new folder %s; say in lint/imports whom it may know", p.ImportPath, from)}
	}
	var wrong []string
	refuse := func(kind string, imports []string, more ...string) {
		for _, path := range imports {
			to := folder(path)
			if to != "" && to != from && !slices.Contains(allowed, to) && !slices.Contains(more, to) {
				wrong = append(wrong, fmt.Sprintf("%s: %s %s", p.ImportPath, kind, path))
			}
		}
	}
	refuse("must not import", p.Imports)
	refuse("its tests must not import", slices.Concat(p.TestImports, p.XTestImports), testHelp)
	return wrong
}

// folder is the folder of ours that a package is in, "nomad" for Nomad's, "" for all others.
func folder(path string) string {
	if path == nomad || strings.HasPrefix(path, nomad+"/") {
		return "nomad"
	}
	rest, ok := strings.CutPrefix(path, module)
	if !ok {
		return ""
	}
	rest = strings.TrimPrefix(rest, "/")
	if _, program := knows[rest]; program {
		return rest
	}
	first, _, _ := strings.Cut(rest, "/")
	if first == "" {
		return "."
	}
	return first
}
