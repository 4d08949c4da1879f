package command

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

func (a *app) export() *cobra.Command {
	var opt image.ExportOptions
	var parent, key string
	cmd := &cobra.Command{
		Use:   "export IMAGE FOLDER",
		Short: "Write an image's files into a folder that is served",
		Long: `Write NAME_TAG.json, the manifest, and NAME_TAG.zfs.zst, the stream, into a folder. Any
static HTTP server that serves the folder is a registry.

With --parent the stream is the difference from that image, which has to be in the folder. It
need not have been built on it.`,
		Args: Args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, img, err := a.find(cmd, args[0])
			if err != nil {
				return err
			}
			if parent != "" {
				below, err := store.Find(cmd.Context(), parent)
				if err != nil {
					return err
				}
				opt.Parent = &below
			}
			if key != "" {
				secret, err := image.ReadSecretKey(key)
				if err != nil {
					return err
				}
				opt.Key = &secret
			}
			bar := a.newBar(cmd, "Exporting "+args[0])
			opt.Progress = bar.update
			m, err := store.Export(cmd.Context(), img, args[1], opt)
			bar.end()
			if err != nil {
				return err
			}
			return a.printExported(cmd, m, args[1])
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opt.Compression, "compression", "zstd", "zstd, xz, gzip or none")
	flags.StringVar(&parent, "parent", "", "image that the stream is to be the difference from")
	flags.StringVar(&key, "sign", "", "secret key of signify or minisign, without a passphrase, to sign the manifest with")
	return cmd
}

func (a *app) printExported(cmd *cobra.Command, m image.Manifest, dir string) error {
	if a.json {
		return printJSON(cmd.OutOrStdout(), publishedJSON{m.ID(), m})
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "Exported %s:%s: %s, %s in %s\n", m.Name, m.Tag, m.ID(), mib(m.Size), dir)
	return err
}

func (a *app) push() *cobra.Command {
	var opt image.PushOptions
	cmd := &cobra.Command{
		Use:   "push FOLDER NAME:TAG URL|FOLDER",
		Short: "Bring an exported image to a registry",
		Long: `Bring the files of an image that was exported into a folder to a registry: by HTTP PUT, which WebDAV
servers and image serve --push-token-file take, or into another folder. The manifest goes last, and
a collection that is missing is made.

Credentials are in the file of --auth-file, such as, for the token of image serve,
{"auths": {"registry.example.org": {"registrytoken": "…"}}}. Without TLS nothing is sent unless the
key begins with http://.`,
		Args: Args(cobra.ExactArgs(3)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := image.ParseReference(args[1])
			if err != nil {
				return usageError{err}
			}
			to := args[2]
			if !strings.Contains(to, "://") {
				if to, err = filepath.Abs(to); err != nil {
					return err
				}
			}
			usual, err := a.defaults(cmd)
			if err != nil {
				return err
			}
			opt.Registry = client(cmd, opt.Registry, usual.Images.Registry)
			opt.Retry = cmp.Or(opt.Retry, usual.Images.Limits.Retry)
			bar := a.newBar(cmd, "Pushing "+args[1])
			opt.Progress = bar.update
			m, err := image.Push(cmd.Context(), args[0], ref, to, opt)
			bar.end()
			if err != nil {
				return err
			}
			where := strings.TrimRight(args[2], "/") + "/" + args[1]
			if a.json {
				return printJSON(cmd.OutOrStdout(), pushedJSON{where, m})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Pushed: %s\n", where)
			return err
		},
	}
	addClientFlags(cmd, &opt.Registry, &opt.Retry)
	return cmd
}

// publishedJSON, pushedJSON, keyJSON and signedJSON are what --json prints of export and verify, push, sign --generate and sign.
type (
	publishedJSON struct {
		Pin string `json:"pin"` // what a reference has behind its @
		image.Manifest
	}
	pushedJSON struct {
		Reference string         `json:"reference"`
		Manifest  image.Manifest `json:"manifest"`
	}
	keyJSON struct {
		ID         string `json:"id"`
		SecretFile string `json:"secret_file"`
		PublicFile string `json:"public_file"`
	}
	signedJSON struct {
		Image string `json:"image"`
		Key   string `json:"key"`
	}
)

func (a *app) sign() *cobra.Command {
	var key, generate string
	cmd := &cobra.Command{
		Use:   "sign --key FILE FOLDER NAME:TAG...  or  sign --generate NAME",
		Short: "Sign the manifests of exported images",
		Long: `Sign the manifests of images that were exported into a folder, with a secret key of signify or
minisign that has no passphrase. --generate makes a pair of keys: NAME.sec and NAME.pub.`,
		Args: Args(func(cmd *cobra.Command, args []string) error {
			switch {
			case (key == "") == (generate == ""):
				return errors.New("give either --key or --generate")
			case key != "":
				return cobra.MinimumNArgs(2)(cmd, args)
			}
			return cobra.NoArgs(cmd, args)
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			if generate != "" {
				made, err := image.GenerateKey(generate)
				if err == nil && a.json {
					return printJSON(cmd.OutOrStdout(), keyJSON{made.Public().ID(), generate + ".sec", generate + ".pub"})
				}
				if err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "Made the key %s: %s.sec to keep, %s.pub for hosts that pull\n", made.Public().ID(), generate, generate)
				}
				return err
			}
			secret, err := image.ReadSecretKey(key)
			if err != nil {
				return err
			}
			var signed []signedJSON
			for _, name := range args[1:] {
				ref, err := image.ParseReference(name)
				if err != nil {
					return usageError{err}
				}
				if err := image.Sign(args[0], ref, secret); err != nil {
					return err
				}
				signed = append(signed, signedJSON{name, secret.Public().ID()})
				if !a.json {
					fmt.Fprintf(cmd.OutOrStdout(), "Signed: %s with the key %s\n", name, secret.Public().ID())
				}
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), signed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "secret key's file")
	cmd.Flags().StringVar(&generate, "generate", "", "make a pair of keys of that name")
	return cmd
}
