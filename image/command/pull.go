package command

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// registryFlags say how a registry is reached and whom to trust.
type registryFlags struct {
	options image.Options
	mirrors []string
}

func (r *registryFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	registry := &r.options.Registry
	flags.StringArrayVar(&r.mirrors, "mirror", nil, "URL=MIRROR, another URL to try before a registry's; may be repeated")
	flags.StringVar(&registry.CAFile, "ca-file", "", "PEM file of certificate authorities to trust beside the system's")
	flags.StringVar(&registry.Proxy, "proxy", "", "HTTP proxy's URL; HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold unless given")
	flags.StringVar(&registry.AuthFile, "auth-file", "", "file of credentials, as podman login writes it")
	flags.StringArrayVar(&r.options.Keys, "key", nil, "public key of signify or minisign that images must be signed with, a file or its base64 line; may be repeated")
	flags.StringVar(&r.options.OS, "os", "", "system that the image must be for; this host's unless given")
	flags.StringVar(&r.options.Arch, "arch", "", "architecture that the image must be for; this host's unless given")
	flags.DurationVar(&r.options.Limits.Retry, "retry", 0, "how long the registry may fail before giving up (default 10s)")
}

func (r *registryFlags) store() (image.Options, error) {
	r.options.Registry.Mirrors = map[string][]string{}
	for _, m := range r.mirrors {
		base, mirror, ok := strings.Cut(m, "=")
		if !ok {
			return image.Options{}, usageError{fmt.Errorf("--mirror %q has no =; write URL=MIRROR", m)}
		}
		base = strings.TrimRight(base, "/")
		r.options.Registry.Mirrors[base] = append(r.options.Registry.Mirrors[base], strings.TrimRight(mirror, "/"))
	}
	return r.options, nil
}

// image is the one that the command is about, and how its registry is asked.
func (r *registryFlags) image(reference string) (image.Reference, image.Options, error) {
	ref, err := image.ParseReference(reference)
	if err != nil {
		return image.Reference{}, image.Options{}, usageError{err}
	}
	options, err := r.store()
	return ref, options, err
}

func (a *app) pull() *cobra.Command {
	var force bool
	var registry registryFlags
	cmd := &cobra.Command{
		Use:   "pull URL/NAME:TAG[@sha256:DIGEST]",
		Short: "Bring an image from a registry into the store",
		Args:  args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, options, err := registry.image(args[0])
			if err != nil {
				return err
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
			return a.printImage(cmd, store, "Here", img)
		},
	}
	registry.add(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "ask the registry whether the tag has moved, also if the image is here")
	return cmd
}

func (a *app) verify() *cobra.Command {
	var registry registryFlags
	cmd := &cobra.Command{
		Use:   "verify URL/NAME:TAG[@sha256:DIGEST]",
		Short: "Read an image at its registry whole, and judge it as a pull would",
		Long: `Read an image at its registry whole, and judge it as a pull would: sizes, digest, signature, and what
the stream unpacks to. Nothing is stored; where no store is given, images for either kind are good.`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, options, err := registry.image(args[0])
			if err != nil {
				return err
			}
			format, err := a.format()
			if err != nil {
				return err
			}
			bar := a.newBar(cmd, "Verifying "+ref.Name+":"+ref.Tag)
			m, err := image.Verify(cmd.Context(), ref, format, a.logged(cmd, options), bar.update)
			bar.end()
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), m)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Good: %s, %s\n", ref, m.Digest)
			return err
		},
	}
	registry.add(cmd)
	return cmd
}
