package command

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// serveFlags are those of `image serve`.
type serveFlags struct{ address, certFile, keyFile, pushToken string }

func (a *app) serve() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve FOLDER",
		Short: "Serve a folder of exported images over HTTP",
		Long: `Serve a folder of exported images over HTTP, or with a certificate over TLS. It is good enough
for a laptop; any static server does the same.

With --push-token-file, image push may store images in the folder: to whoever has the token.`,
		Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := flags.server(args[0])
			if err != nil {
				return err
			}
			listener, err := net.Listen("tcp", flags.address)
			if err != nil {
				return err
			}
			url := fmt.Sprintf("%s://%s", flags.scheme(), listener.Addr())
			if a.json { // one line, for who waits for it
				err = json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"folder": args[0], "url": url})
			} else {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "Serving %s at %s\n", args[0], url)
			}
			if err != nil {
				return errors.Join(err, listener.Close())
			}
			defer context.AfterFunc(cmd.Context(), func() { server.Close() })()
			if flags.certFile == "" {
				err = server.Serve(listener)
			} else {
				err = server.ServeTLS(listener, flags.certFile, flags.keyFile)
			}
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.address, "listen", "127.0.0.1:8080", "address and port to listen on; port 0 takes a free one")
	f.StringVar(&flags.certFile, "tls-cert", "", "certificate's file, for TLS")
	f.StringVar(&flags.keyFile, "tls-key", "", "its key's file")
	f.StringVar(&flags.pushToken, "push-token-file", "", "file with the token of those who may push; without it nobody may")
	return cmd
}

func (f serveFlags) scheme() string {
	if f.certFile == "" {
		return "http"
	}
	return "https"
}

func (f serveFlags) server(dir string) (*http.Server, error) {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, err
	case !info.IsDir():
		return nil, fmt.Errorf("%s is no folder; give the one that images were exported to", dir)
	case (f.certFile == "") != (f.keyFile == ""):
		return nil, usageError{errors.New("--tls-cert and --tls-key go together")}
	}
	handler := image.Handler(dir)
	if f.pushToken != "" {
		token, err := readToken(f.pushToken)
		if err != nil {
			return nil, err
		}
		handler = image.WritableHandler(dir, token)
	}
	return &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}, nil
}

// readToken refuses an empty one, which everybody has.
func readToken(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if len(token) < 16 {
		return "", fmt.Errorf("%s holds a token of %d bytes; at least 16 are needed, such as: openssl rand -hex 16", file, len(token))
	}
	return token, nil
}
