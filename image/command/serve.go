package command

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

func (a *app) serve() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "serve FOLDER",
		Short: "Serve a folder of exported images over HTTP",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			info, err := os.Stat(args[0])
			if err != nil {
				return err
			}
			if !info.IsDir() {
				return fmt.Errorf("%s is no folder; give the one that images were exported to", args[0])
			}
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Serving %s at http://%s\n", args[0], listener.Addr())
			server := &http.Server{Handler: image.Handler(args[0]), ReadHeaderTimeout: time.Minute}
			go func() {
				<-cmd.Context().Done()
				server.Close()
			}()
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&address, "listen", "127.0.0.1:8080", "address and port to listen on; port 0 takes a free one")
	return cmd
}
