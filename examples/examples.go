// Package examples holds the example jobspecs, so that a test binary brings them along.
package examples

import (
	"embed"
	"io/fs"
	"strings"
)

//go:embed jobs
var jobs embed.FS

// Jobs are the names of the jobspecs, without ".nomad.hcl".
func Jobs() ([]string, error) {
	paths, err := fs.Glob(jobs, "jobs/*.nomad.hcl")
	for i, p := range paths {
		paths[i] = strings.TrimSuffix(strings.TrimPrefix(p, "jobs/"), ".nomad.hcl")
	}
	return paths, err
}

// Job is the text of a jobspec.
func Job(name string) (string, error) {
	text, err := jobs.ReadFile("jobs/" + name + ".nomad.hcl")
	return string(text), err
}
