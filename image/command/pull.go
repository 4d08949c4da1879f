package command

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// registryFlags say how a registry is reached and whom to trust.
type registryFlags struct {
	options image.Options
	mirrors []string
}

func (a *app) registryFlags(cmd *cobra.Command) *registryFlags {
	r := &registryFlags{options: a.defaults.Images}
	flags := cmd.Flags()
	registry := &r.options.Registry
	addClientFlags(flags, registry)
	flags.StringArrayVar(&r.mirrors, "mirror", nil, "URL=MIRROR, another URL to try before a registry's, instead of the plugin's for that; may be repeated")
	flags.StringArrayVar(&r.options.Keys, "key", r.options.Keys, "public key of signify or minisign that images must be signed with, a file or its base64 line; may be repeated")
	flags.StringVar(&r.options.OS, "os", "", "system that the image must be for; this host's unless given")
	flags.StringVar(&r.options.Arch, "arch", "", "architecture that the image must be for; this host's unless given")
	flags.DurationVar(&r.options.Limits.Retry, "retry", cmp.Or(r.options.Limits.Retry, usualRetry), retryHelp)
	return r
}

// addClientFlags are how a registry is asked, by whatever asks one.
func addClientFlags(flags *pflag.FlagSet, registry *image.RegistryOptions) {
	flags.StringVar(&registry.CAFile, "ca-file", registry.CAFile, "PEM file of certificate authorities to trust beside the system's")
	flags.StringVar(&registry.Proxy, "proxy", registry.Proxy, "HTTP proxy's URL; HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold unless given")
	flags.StringVar(&registry.AuthFile, "auth-file", registry.AuthFile, "file of credentials, as podman login writes it")
}

const (
	usualRetry = 10 * time.Second
	retryHelp  = "how long the registry may fail before giving up"
)

func (r *registryFlags) store() (image.Options, error) {
	if err := image.CheckPlatform(r.options.OS, r.options.Arch); err != nil {
		return image.Options{}, usageError{err}
	}
	given := map[string][]string{}
	for _, m := range r.mirrors {
		base, mirror, ok := strings.Cut(m, "=")
		if !ok {
			return image.Options{}, usageError{fmt.Errorf("--mirror %q has no =; write URL=MIRROR", m)}
		}
		base = strings.TrimRight(base, "/")
		given[base] = append(given[base], strings.TrimRight(mirror, "/"))
	}
	r.options.Registry.Mirrors = maps.Clone(r.options.Registry.Mirrors)
	if r.options.Registry.Mirrors == nil {
		r.options.Registry.Mirrors = given
	}
	maps.Copy(r.options.Registry.Mirrors, given)
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
	var registry *registryFlags
	cmd := &cobra.Command{
		Use:   "pull URL/NAME:TAG[@sha256:DIGEST]",
		Short: "Bring an image from a registry into the store",
		Long: `Bring an image from a registry into the store. How registries are reached, and whose signatures images
need, is what the plugin on this host was configured with last, unless flags say otherwise.`,
		Args: args(cobra.ExactArgs(1)),
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
	registry = a.registryFlags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "ask the registry whether the tag has moved, also if the image is here")
	return cmd
}

func (a *app) verify() *cobra.Command {
	var registry *registryFlags
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
	registry = a.registryFlags(cmd)
	return cmd
}
