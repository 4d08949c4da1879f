package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	argv, err := image.Words(d.command)
	if err != nil {
		return image.Defaults{}, usageError{fmt.Errorf("--cmd: %w", err)}
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

func (a *app) build(run Runner) *cobra.Command {
	var defaults defaultsFlags
	opt := image.BuildOptions{Run: func(ctx context.Context, r image.Run) error { return run(ctx, a.stateDir, r) }}
	var recipe string
	cmd := &cobra.Command{
		Use:   "build NAME:TAG FOLDER|ARCHIVE  or  build --recipe FILE NAME:TAG",
		Short: "Make an image from a folder, a tar archive or a recipe",
		Long: `Make an image from a folder or from a tar archive, plain or compressed with gzip, xz or
zstd, such as a FreeBSD release's base.txz. Owners and modes are kept.

Or make it as a recipe says, one instruction a line:

    # an image in the store or at a URL, or the path (./ or /) of a folder or archive
    base web:1.3
    # files below the recipe's folder; root owns them in the image
    copy site /usr/local/www
    # in a jail; it reaches the network only with --host-network
    run pkg install -y nginx
    user www
    workdir /usr/local/www
    env LANG=C.UTF-8
    ports 80 443
    cmd /usr/local/sbin/nginx -g "daemon off;"

What an instruction made is found again as long as it and all before it stay the same.`,
		Args: Args(func(cmd *cobra.Command, args []string) error {
			if recipe != "" {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := image.ParseReference(args[0])
			if err != nil {
				return usageError{err}
			}
			if opt.Defaults, err = defaults.defaults(); err != nil {
				return err
			}
			if err := opt.Check(); err != nil {
				return usageError{err}
			}
			usual, err := a.defaults(cmd)
			if err != nil {
				return err
			}
			store, err := a.prepare(cmd.Context(), cmd, usual)
			if err != nil {
				return err
			}
			opt.Output = cmd.ErrOrStderr()
			img, err := build(cmd.Context(), store, ref, recipe, args, opt)
			if err != nil {
				return err
			}
			return a.printImage(cmd, store, "Built", img)
		},
	}
	defaults.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&recipe, "recipe", "f", "", "file of the recipe")
	flags.BoolVar(&opt.HostNetwork, "host-network", false, "let run use the host's network")
	flags.BoolVar(&opt.NoCache, "no-cache", false, "do again what was done before")
	flags.StringVar(&opt.OS, "os", "", "system that the image is for, freebsd or linux; its base's or this host's unless given")
	flags.StringVar(&opt.Arch, "arch", "", "architecture that the image is for, such as amd64; its base's or this host's unless given")
	flags.StringVar(&opt.OSRelease, "os-release", "", "release that the image is made from, such as 12.2-RELEASE")
	return cmd
}

func build(ctx context.Context, store *image.Store, ref image.Reference, recipe string, args []string, opt image.BuildOptions) (image.Image, error) {
	if recipe == "" {
		return store.Build(ctx, ref, args[1], opt)
	}
	f, err := os.Open(recipe)
	if err != nil {
		return image.Image{}, err
	}
	defer f.Close()
	parsed, err := image.ParseRecipe(f, filepath.Dir(recipe))
	if err != nil {
		return image.Image{}, fmt.Errorf("%s: %w", recipe, err)
	}
	return store.BuildRecipe(ctx, ref, parsed, opt)
}
