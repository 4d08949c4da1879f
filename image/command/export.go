package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

func (a *app) export() *cobra.Command {
	var opt image.ExportOptions
	cmd := &cobra.Command{
		Use:   "export IMAGE FOLDER",
		Short: "Write an image's files into a folder that is served",
		Long: `Write NAME_TAG.json, the manifest, and NAME_TAG.zfs.zst, the stream, into a folder. Any
static HTTP server that serves the folder is a registry.`,
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open(cmd.Context(), cmd, image.Options{})
			if err != nil {
				return err
			}
			img, err := store.Find(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			bar := a.newBar(cmd, "Exporting "+args[0])
			opt.Progress = bar.update
			m, err := store.Export(cmd.Context(), img, args[1], opt)
			bar.end()
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Exported %s:%s: %s, %s in %s\n", m.Name, m.Tag, m.Digest, mib(m.Size), args[1])
			return err
		},
	}
	cmd.Flags().StringVar(&opt.Compression, "compression", "zstd", "zstd, xz, gzip or none")
	return cmd
}
