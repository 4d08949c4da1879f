package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/driver"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/command"
)

// hostFlags choose the host's parts as the plugin's configuration does; without them they are those of the plugin that
// ran here last.
type hostFlags struct {
	config, stateDir, dataset, directory string
}

func (f *hostFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "",
		"file or folder of Nomad's agent configuration that has the plugin's (default: what the plugin used last, else "+driver.AgentConfig+")")
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "the plugin's state_dir (default: "+driver.DefaultConfig().StateDir+")")
	cmd.Flags().StringVar(&f.dataset, "dataset", "", "the plugin's dataset")
	cmd.Flags().StringVar(&f.directory, "directory", "", "the plugin's directory, instead of a dataset")
}

func (f *hostFlags) host() (*driver.Host, error) {
	if f.dataset != "" && f.directory != "" {
		return nil, command.UsageError(errors.New("--dataset and --directory exclude each other; give one"))
	}
	config, err := driver.FindConfig(f.config, f.stateDir, driver.AgentConfig)
	if err != nil {
		return nil, err
	}
	if f.dataset != "" || f.directory != "" {
		config.Dataset, config.Directory = f.dataset, f.directory
	}
	config.Consul.Enabled = false
	return driver.NewHost(config, hclog.NewNullLogger())
}

func psCommand() *cobra.Command {
	var flags hostFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List the tasks on this host and what each holds",
		Args:  command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := flags.host()
			if err != nil {
				return err
			}
			list, err := host.Holdings(cmd.Context())
			if asJSON {
				return errors.Join(err, json.NewEncoder(cmd.OutOrStdout()).Encode(append([]driver.Holding{}, list...)))
			}
			return errors.Join(err, printHoldings(cmd.OutOrStdout(), list))
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printHoldings(w io.Writer, list []driver.Holding) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "JAIL\tSTATE\tPID\tADDRESS\tJOB\tTASK\tALLOC\tIMAGE\tHOLDS")
	for _, h := range list {
		state := "ended"
		switch {
		case h.Running:
			state = "running"
		case h.State.TaskID == "":
			state = "leftover"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%.8s\t%s\t%s\n", h.Name, state, h.Status.PID, command.OrDash(h.State.Address),
			command.OrDash(h.State.JobID), command.OrDash(h.State.Task), command.OrDash(h.State.AllocID), command.OrDash(h.State.Image), strings.Join(h.Parts, ","))
	}
	return t.Flush()
}

func gcCommand() *cobra.Command {
	var flags hostFlags
	var dryRun, all bool
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what tasks that no longer run have left on this host",
		Long: `Removes all that bears the name of a task that is not running. A task that
ended less than the grace time ago is left for Nomad, which may still want its
exit code.`,
		Args: command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, err := flags.host()
			if err != nil {
				return err
			}
			list, err := host.Holdings(cmd.Context())
			for _, h := range list {
				if !h.Removable(time.Now().Add(-grace)) {
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s\t%s\t%s\n", h.Name, command.OrDash(h.State.TaskID), strings.Join(h.Parts, ","))
				if !dryRun {
					err = errors.Join(err, host.Remove(cmd.Context(), h.Name))
				}
			}
			if all && !dryRun && err == nil {
				return host.Network.Release(cmd.Context())
			}
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&all, "all", false, "also take away the bridge and the rules that all tasks share, when no task is left")
	cmd.Flags().DurationVar(&grace, "grace", time.Hour, "leave tasks that ended, or began to start, less than this ago")
	return cmd
}
