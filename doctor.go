package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nomad-driver-jail/nomad-driver-jail/driver"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/command"
)

var errUnfit = errors.New("this host cannot run the driver yet")

func doctorCommand() *cobra.Command {
	var flags hostFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this host has of what the driver needs, and how to get the rest",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := flags.host()
			if err != nil {
				return err
			}
			parts := host.Parts(cmd.Context())
			if asJSON {
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(report(parts))
			} else {
				printParts(cmd.OutOrStdout(), parts)
			}
			for _, p := range parts {
				if p.Err != nil {
					err = errors.Join(err, errUnfit)
					break
				}
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// partReport is a driver.Part as doctor --json prints it.
type partReport struct {
	Name    string            `json:"name"`
	OK      bool              `json:"ok"`
	Missing string            `json:"missing,omitempty"`
	Facts   map[string]string `json:"facts,omitempty"`
}

func report(parts []driver.Part) []partReport {
	out := make([]partReport, 0, len(parts))
	for _, p := range parts {
		r := partReport{Name: p.Name, OK: p.Err == nil, Facts: p.Facts}
		if p.Err != nil {
			r.Missing = p.Err.Error()
		}
		out = append(out, r)
	}
	return out
}

// coloured is for a terminal that has colours, whose user has not asked for none (https://no-color.org).
func coloured(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func printParts(w io.Writer, parts []driver.Part) {
	green, red, plain := "\x1b[32m", "\x1b[31m", "\x1b[0m"
	if !coloured(w) {
		green, red, plain = "", "", ""
	}
	for _, p := range report(parts) {
		if !p.OK {
			fmt.Fprintf(w, "%smissing%s  %-10s  %s\n", red, plain, p.Name, p.Missing)
			continue
		}
		line := fmt.Sprintf("%sok%s       %-10s", green, plain, p.Name)
		for _, k := range slices.Sorted(maps.Keys(p.Facts)) {
			line += "  " + k + "=" + p.Facts[k]
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}
