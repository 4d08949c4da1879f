package command

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// defaultsFlags are the manifest's defaults on the command line.
type defaultsFlags struct {
	command, workdir, user string
	env, ports             []string
}

func (d *defaultsFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&d.command, "cmd", "", `what a task runs: words, or a JSON list such as ["/bin/sh", "-c", "sleep 1"]`)
	flags.StringArrayVar(&d.env, "env", nil, "NAME=VALUE in a task's environment; may be repeated")
	flags.StringVar(&d.workdir, "workdir", "", "a task's working directory")
	flags.StringVar(&d.user, "user", "", "a task's user")
	flags.StringSliceVar(&d.ports, "port", nil, "a port that a task listens on, such as 80 or 53/udp; may be repeated")
}

func (d *defaultsFlags) defaults() (image.Defaults, error) {
	argv, err := words(d.command)
	if err != nil {
		return image.Defaults{}, err
	}
	result := image.Defaults{Workdir: d.workdir, User: d.user, Ports: d.ports}
	if len(argv) > 0 {
		result.Command, result.Args = argv[0], argv[1:]
	}
	for _, e := range d.env {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			return image.Defaults{}, usageError{fmt.Errorf("--env %q has no =; write NAME=VALUE", e)}
		}
		if result.Env == nil {
			result.Env = map[string]string{}
		}
		result.Env[name] = value
	}
	return result, nil
}

// words takes a JSON list where quoting matters.
func words(s string) ([]string, error) {
	if !strings.HasPrefix(strings.TrimSpace(s), "[") {
		return strings.Fields(s), nil
	}
	var list []string
	if err := json.Unmarshal([]byte(s), &list); err != nil {
		return nil, usageError{fmt.Errorf("--cmd %q is no JSON list of strings: %w", s, err)}
	}
	return list, nil
}

func (a *app) build() *cobra.Command {
	var defaults defaultsFlags
	var opt image.BuildOptions
	cmd := &cobra.Command{
		Use:   "build NAME:TAG FOLDER|ARCHIVE",
		Short: "Make an image from a folder or a tar archive",
		Long: `Make an image from a folder or from a tar archive, plain or compressed with gzip, xz or
zstd, such as a FreeBSD release's base.txz. Owners and modes are kept.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := image.ParseReference(args[0])
			if err != nil {
				return usageError{err}
			}
			if opt.Defaults, err = defaults.defaults(); err != nil {
				return err
			}
			store, err := a.prepare(cmd.Context(), cmd, image.Options{})
			if err != nil {
				return err
			}
			img, err := store.Build(cmd.Context(), ref, args[1], opt)
			if err != nil {
				return err
			}
			return a.printImage(cmd, "Built", img)
		},
	}
	defaults.add(cmd)
	cmd.Flags().StringVar(&opt.OS, "os", "", "system that the image is for, freebsd or linux; this host's unless given")
	cmd.Flags().StringVar(&opt.Arch, "arch", "", "architecture that the image is for, such as amd64; this host's unless given")
	cmd.Flags().StringVar(&opt.OSRelease, "os-release", "", "release that the image is made from, such as 12.2-RELEASE")
	return cmd
}
