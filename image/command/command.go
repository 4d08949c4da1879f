// Package command is the command line of images: what operators and CI build, publish, pull and clean up with.
package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// UsageError makes ExitCode 2 of an error.
func UsageError(err error) error { return usageError{err} }

// ExitCode is 2 for a command line that cannot be meant, else 1.
func ExitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) || strings.HasPrefix(err.Error(), "unknown command") {
		return 2
	}
	return 1
}

// app is what the commands share.
type app struct {
	dataset, directory, stateDir string
	config                       string
	json                         bool
	verbose                      bool

	plugin Plugin
}

// Plugin is what the plugin is configured with: by config or, where that is "", as the plugin was last whose state is in stateDir, "" for
// the usual place. Beside an error it tells the folder of the state still: a store that is named needs no more.
type Plugin func(config, stateDir string) (Defaults, error)

// Defaults are what the plugin on this host is configured with. Each holds where the command line does not say otherwise.
type Defaults struct {
	Dataset, Directory, StateDir string
	// Images are how registries are reached and whom to trust.
	Images image.Options
	GC     image.GCOptions
}

// Runner is an image.Runner that is told the folder of the driver's state.
type Runner func(ctx context.Context, stateDir string, run image.Run) error

// New is the command "image" with all that is below it. run runs the run instructions of recipes; plugin tells what a command line
// leaves open.
func New(run Runner, plugin Plugin) *cobra.Command {
	a := &app{plugin: plugin}
	root := &cobra.Command{
		Use:   "image",
		Short: "Build, publish, pull and clean up images",
		Args:  Args(cobra.NoArgs),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(FlagError)
	flags := root.PersistentFlags()
	flags.StringVar(&a.dataset, "dataset", "", "ZFS dataset below which images are kept, as in the plugin's configuration")
	flags.StringVar(&a.directory, "directory", "", "directory in which images are kept where there is no ZFS")
	flags.StringVar(&a.config, "config", "", "file or folder of Nomad's agent configuration that has the plugin's (default: what the plugin used last, else its block in the agent's usual folder)")
	flags.StringVar(&a.stateDir, "state-dir", "", "folder of the driver's state: mounts and locks (default: the plugin's)")
	flags.BoolVar(&a.json, "json", false, "print JSON")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "say more on stderr")
	root.AddCommand(a.build(run), a.export(), a.push(), a.sign(), a.pull(), a.verify(), a.list(), a.inspect(), a.rm(), a.gc(), a.serve())
	return root
}

// FlagError makes cobra's complaints about flags usage errors.
func FlagError(_ *cobra.Command, err error) error { return usageError{err} }

// wayIn is said to whom a registry refuses.
const wayIn = "give credentials with --auth-file FILE; without TLS they are sent only if their key in the file begins with http://"

// Args makes cobra's complaints about arguments usage errors.
func Args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// defaults are the plugin's. Who may not read them goes without.
func (a *app) defaults(cmd *cobra.Command) (Defaults, error) {
	d, err := a.plugin(a.config, a.stateDir)
	a.stateDir = d.StateDir
	if errors.Is(err, fs.ErrPermission) && a.config == "" {
		a.logger(cmd).Warn("the plugin's configuration is left aside, its keys and mirrors among it", "error", err)
		d, err = Defaults{GC: image.GCOptions{Delay: usualDelay}}, nil
	}
	d.Images.Registry.WayIn = wayIn
	return d, err
}

func (a *app) backend(usual Defaults) (storage.Backend, error) {
	switch {
	case a.dataset != "" && a.directory != "":
		return nil, usageError{errors.New("--dataset and --directory exclude each other; give one")}
	case a.dataset == "" && a.directory == "":
		a.dataset, a.directory = usual.Dataset, usual.Directory
	}
	switch {
	case a.dataset != "":
		return storage.NewZFS(storage.Dataset(a.dataset), filepath.Join(a.stateDir, "mounts")), nil
	case a.directory != "":
		var err error
		a.directory, err = filepath.Abs(a.directory)
		return storage.NewDirectory(a.directory, a.stateDir), err
	}
	return nil, usageError{errNoStore}
}

var errNoStore = errors.New("which store? Give --dataset POOL/NAME or --directory DIR, as in the plugin's configuration")

// format is that of the store's streams, "" without a store.
func (a *app) format(usual Defaults) (string, error) {
	backend, err := a.backend(usual)
	if errors.Is(err, errNoStore) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return backend.Format(), nil
}

// open is the store as it is.
func (a *app) open(ctx context.Context, cmd *cobra.Command) (*image.Store, error) {
	usual, err := a.defaults(cmd)
	if named := a.dataset != "" || a.directory != ""; err != nil && (a.config != "" || !named) { // one that is named needs no more
		return nil, err
	}
	backend, err := a.backend(usual)
	if err != nil {
		return nil, err
	}
	if err := backend.Check(ctx); err != nil {
		return nil, err
	}
	if _, err := backend.Temporary(ctx); errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("there is no store in %s; the first pull or build makes it, and the plugin's start", cmp.Or(a.dataset, a.directory))
	}
	return a.store(backend, cmd, usual.Images), nil
}

// prepare is the store, made where there is none, without the leftovers of the killed if they can be removed.
func (a *app) prepare(ctx context.Context, cmd *cobra.Command, usual Defaults) (*image.Store, error) {
	backend, err := a.backend(usual)
	if err != nil {
		return nil, err
	}
	if err := backend.Prepare(ctx); err != nil {
		return nil, err
	}
	store := a.store(backend, cmd, usual.Images)
	if err := store.Sweep(ctx); err != nil {
		a.logger(cmd).Warn("what killed pulls left is not removed", "error", err)
	}
	return store, nil
}

func (a *app) store(backend storage.Backend, cmd *cobra.Command, options image.Options) *image.Store {
	return image.New(backend, a.logged(cmd, options))
}

func (a *app) logged(cmd *cobra.Command, options image.Options) image.Options {
	options.LockDir = filepath.Join(cmp.Or(a.directory, a.stateDir), "locks")
	options.Logger = a.logger(cmd)
	return options
}

func (a *app) logger(cmd *cobra.Command) hclog.Logger {
	level := hclog.Warn
	if a.verbose {
		level = hclog.Debug
	}
	return hclog.New(&hclog.LoggerOptions{Output: cmd.ErrOrStderr(), Level: level, DisableTime: true})
}

// printJSON is for machines.
func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}
