package command

import (
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

func (a *app) pull() *cobra.Command {
	var force bool
	var options image.Options
	cmd := &cobra.Command{
		Use:   "pull URL/NAME:TAG[@sha256:DIGEST]",
		Short: "Bring an image from a registry into the store",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := image.ParseReference(args[0])
			if err != nil {
				return usageError{err}
			}
			store, err := a.prepare(cmd.Context(), cmd, options)
			if err != nil {
				return err
			}
			bar := a.newBar(cmd, "Pulling "+ref.Name+":"+ref.Tag)
			img, err := store.Ensure(cmd.Context(), ref, image.EnsureOptions{ForcePull: force, Progress: bar.update})
			bar.end()
			if err != nil {
				return err
			}
			return a.printImage(cmd, "Here", img)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&force, "force", false, "ask the registry whether the tag has moved, also if the image is here")
	flags.StringVar(&options.OS, "os", "", "system that the image must be for; this host's unless given")
	flags.StringVar(&options.Arch, "arch", "", "architecture that the image must be for; this host's unless given")
	flags.DurationVar(&options.Limits.Retry, "retry", 0, "how long the registry may fail before the pull gives up (default 10s)")
	return cmd
}
