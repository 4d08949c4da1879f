package command

import (
	"cmp"
	"fmt"
	"maps"
	"time"

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
	addClientFlags(cmd, &r.options.Registry, &r.options.Limits.Retry)
	flags.StringArrayVar(&r.mirrors, "mirror", nil, "URL=MIRROR, another URL to try before a registry's, instead of the plugin's for that; may be repeated")
	flags.StringArrayVar(&r.options.Keys, "key", nil, "public key of signify or minisign that images must be signed with, a file or its base64 line, instead of the plugin's; may be repeated")
	flags.StringVar(&r.options.OS, "os", "", "system that the image must be for; this host's unless given")
	flags.StringVar(&r.options.Arch, "arch", "", "architecture that the image must be for; this host's unless given")
}

// addClientFlags are how a registry is asked, by whatever asks one.
func addClientFlags(cmd *cobra.Command, registry *image.RegistryOptions, retry *time.Duration) {
	flags := cmd.Flags()
	flags.StringVar(&registry.CAFile, "ca-file", "", "PEM file of certificate authorities to trust beside the system's; the plugin's unless given")
	flags.StringVar(&registry.Proxy, "proxy", "", "HTTP proxy's URL; the plugin's, or HTTP_PROXY, HTTPS_PROXY and NO_PROXY hold unless given")
	flags.StringVar(&registry.AuthFile, "auth-file", "", "file of credentials, as podman login writes it; the plugin's unless given")
	flags.DurationVar(retry, "retry", 0, "how long the registry may fail before giving up; the plugin's, or 10s unless given")
}

// client has the flags that are given go before what the plugin is configured with.
func client(cmd *cobra.Command, given, usual image.RegistryOptions) image.RegistryOptions {
	for name, values := range map[string]struct{ from, to *string }{
		"ca-file": {&given.CAFile, &usual.CAFile}, "proxy": {&given.Proxy, &usual.Proxy}, "auth-file": {&given.AuthFile, &usual.AuthFile},
	} {
		if cmd.Flags().Changed(name) {
			*values.to = *values.from
		}
	}
	return usual
}

// over is the plugin's configuration with what the flags say instead.
func (r *registryFlags) over(cmd *cobra.Command, usual Defaults) (Defaults, error) {
	given := r.options
	if err := image.CheckPlatform(given.OS, given.Arch); err != nil {
		return usual, usageError{err}
	}
	o := usual.Images
	o.OS, o.Arch, o.Limits.Retry = given.OS, given.Arch, cmp.Or(given.Limits.Retry, o.Limits.Retry)
	if cmd.Flags().Changed("key") {
		o.Keys = given.Keys
	}
	o.Registry = client(cmd, given.Registry, o.Registry)
	mirrors, err := image.ParseMirrors(r.mirrors)
	if err != nil {
		return usual, usageError{fmt.Errorf("--mirror: %w", err)}
	}
	o.Registry.Mirrors = maps.Clone(o.Registry.Mirrors)
	if o.Registry.Mirrors == nil {
		o.Registry.Mirrors = map[string][]string{}
	}
	maps.Copy(o.Registry.Mirrors, mirrors)
	usual.Images = o
	return usual, nil
}

// about is the image that the command is about, and how its registry is asked.
func (a *app) about(cmd *cobra.Command, r *registryFlags, reference string) (image.Reference, Defaults, error) {
	ref, err := image.ParseReference(reference)
	if err != nil {
		return image.Reference{}, Defaults{}, usageError{err}
	}
	usual, err := a.defaults(cmd)
	if err == nil {
		usual, err = r.over(cmd, usual)
	}
	return ref, usual, err
}

func (a *app) pull() *cobra.Command {
	var force bool
	var registry registryFlags
	cmd := &cobra.Command{
		Use:   "pull URL/NAME:TAG[@sha256:DIGEST]",
		Short: "Bring an image from a registry into the store",
		Long: `Bring an image from a registry into the store. How registries are reached, and whose signatures images
need, is what the plugin on this host was configured with last, unless flags say otherwise.`,
		Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, usual, err := a.about(cmd, &registry, args[0])
			if err != nil {
				return err
			}
			store, err := a.prepare(cmd.Context(), cmd, usual)
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
		Args: Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, usual, err := a.about(cmd, &registry, args[0])
			if err != nil {
				return err
			}
			format, err := a.format(usual)
			if err != nil {
				return err
			}
			bar := a.newBar(cmd, "Verifying "+ref.Name+":"+ref.Tag)
			m, err := image.Verify(cmd.Context(), ref, format, a.logged(cmd, usual.Images), bar.update)
			bar.end()
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), publishedJSON{m.ID(), m})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Good: %s, %s\n", ref, cmp.Or(m.ID(), "a pot that stands on another"))
			return err
		},
	}
	registry.add(cmd)
	return cmd
}
