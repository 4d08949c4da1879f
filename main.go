// Command nomad-driver-jail is a Nomad task driver for FreeBSD jails. Started by Nomad it serves the plugin; started by a
// person it is the operator's command line.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/driver"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/command"
)

func main() {
	// After an agent's death our stderr is a pipe without a reader: the next line logged must not kill the plugin.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "nomad-driver-jail:", err)
		os.Exit(command.ExitCode(err))
	}
}

func rootCommand() *cobra.Command {
	var driverName string
	root := &cobra.Command{
		Use:   "nomad-driver-jail",
		Short: "A Nomad task driver for FreeBSD jails",
		Long: `Nomad starts this program by itself from its plugin_dir; a person uses the
commands below to build and serve images and to ask a host what runs on it.`,
		Version:       driver.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          command.Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !startedByNomad() {
				return cmd.Help()
			}
			plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
				return driver.New(ctx, driverName, logger)
			})
			return nil
		},
	}
	root.Flags().StringVar(&driverName, "driver-name", driver.DefaultName,
		`the name under which the driver registers with Nomad, such as "pot"`)
	root.SetFlagErrorFunc(command.FlagError)
	root.AddCommand(command.New(runInJail, imageDefaults), psCommand(), gcCommand(), doctorCommand())
	return root
}

// startedByNomad looks for the handshake that go-plugin puts into a plugin's environment.
func startedByNomad() bool {
	return os.Getenv(base.Handshake.MagicCookieKey) == base.Handshake.MagicCookieValue
}
