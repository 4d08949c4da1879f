package command

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// imageJSON is an image as --json prints it.
type imageJSON struct {
	ID         string         `json:"id"`
	Reference  string         `json:"reference"`
	Pin        string         `json:"pin"`            // what a reference has behind its @; "" where nothing was published
	Root       string         `json:"root,omitempty"` // of one image only: its files are mounted there
	Used       uint64         `json:"used"`
	Referenced uint64         `json:"referenced"`
	Clones     []string       `json:"clones"`
	LastUsed   *time.Time     `json:"last_used"`
	SignedBy   string         `json:"signed_by"` // ID of the key whose signature was verified
	Manifest   image.Manifest `json:"manifest"`
}

func forJSON(img image.Image) imageJSON {
	j := imageJSON{ID: img.ID, Pin: img.Pin(), Used: img.Used, Referenced: img.Referenced, Clones: append([]string{}, img.Clones...), SignedBy: img.SignedBy, Manifest: img.Manifest}
	if img.Reference.Name != "" {
		j.Reference = img.Reference.String()
	}
	if !img.LastUsed.IsZero() {
		j.LastUsed = &img.LastUsed
	}
	return j
}

// withRoot is an image with all that is known of it.
func withRoot(cmd *cobra.Command, store *image.Store, img image.Image) (imageJSON, error) {
	root, err := store.Root(cmd.Context(), img)
	j := forJSON(img)
	j.Root = root
	return j, err
}

// printImage is for one that came into the store just now.
func (a *app) printImage(cmd *cobra.Command, store *image.Store, what string, img image.Image) error {
	img, err := store.Find(cmd.Context(), img.Reference.String())
	if err != nil {
		return err
	}
	j, err := withRoot(cmd, store, img)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(cmd.OutOrStdout(), j)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, ID %s, root %s\n", what, img.Reference, shortID(img.ID), j.Root)
	return err
}

// shortID is enough for a person, and for image inspect.
func shortID(id string) string {
	kind, digits := "", id
	if rest, built := strings.CutPrefix(id, "built-"); built {
		kind, digits = "built-", rest
	}
	return kind + digits[:min(12, len(digits))]
}

func (a *app) list() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images in the store",
		Args:    Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			images, err := store.List(cmd.Context())
			if err != nil {
				return err
			}
			if a.json {
				list := make([]imageJSON, 0, len(images))
				for _, img := range images {
					list = append(list, forJSON(img))
				}
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printTable(cmd, images)
		},
	}
}

func printTable(cmd *cobra.Command, images []image.Image) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tTAG\tID\tPLATFORM\tSIZE\tCREATED\tCLONES\tREGISTRY")
	for _, img := range images {
		m := img.Manifest
		fmt.Fprintln(w, strings.Join([]string{
			OrDash(img.Reference.Name), OrDash(img.Reference.Tag), shortID(img.ID), OrDash(strings.Trim(m.OS+"/"+m.Arch, "/")),
			mib(int64(img.Referenced)), day(m.Created), fmt.Sprint(len(img.Clones)), OrDash(img.Reference.Base),
		}, "\t"))
	}
	return w.Flush()
}

// OrDash fills a table's cell where there is nothing to say.
func OrDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func (a *app) inspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Print what is known of an image in the store, as JSON",
		Args:  Args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, img, err := a.find(cmd, args[0])
			if err != nil {
				return err
			}
			j, err := withRoot(cmd, store, img)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), j)
		},
	}
}

func (a *app) rm() *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images from the store",
		Long:  "Take a name off its image, and remove the image with its last name. One that tasks use stays.\nOne that cannot be removed does not keep the others.",
		Args:  Args(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			var errs []error
			var removed []removedJSON
			for _, arg := range args {
				img, err := store.Find(cmd.Context(), arg)
				if err == nil {
					err = store.Remove(cmd.Context(), img)
				}
				switch {
				case err != nil:
					errs = append(errs, err)
				case !a.json:
					fmt.Fprintf(cmd.OutOrStdout(), "Removed: %s\n", arg)
				}
				removed = append(removed, removedJSON{arg, err == nil, sentence(err)})
			}
			if a.json {
				errs = append(errs, printJSON(cmd.OutOrStdout(), removed))
			}
			return errors.Join(errs...)
		},
	}
}

// removedJSON is one of rm's arguments as --json prints it.
type removedJSON struct {
	Image   string `json:"image"`
	Removed bool   `json:"removed"`
	Error   string `json:"error,omitempty"`
}

func sentence(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (a *app) find(cmd *cobra.Command, what string) (*image.Store, image.Image, error) {
	store, err := a.open(cmd.Context(), cmd)
	if err != nil {
		return nil, image.Image{}, err
	}
	img, err := store.Find(cmd.Context(), what)
	return store, img, err
}

// usualDelay is for who may not read the plugin's.
const usualDelay = 72 * time.Hour

func (a *app) gc() *cobra.Command {
	var opt image.GCOptions
	var maxSize string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove images that nothing uses",
		Long: `Remove images that no task and no other image stands on, when their last use is --delay ago, and
before that, oldest use first, as long as all images hold more than --max-size. Images that were
built here and have a name stay, and in any case what was used less than five minutes ago: a task
may be about to start from it.

--delay and --max-size are the plugin's gc_delay and max_size unless given.`,
		Args: Args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opt.Delay < 0 {
				return usageError{fmt.Errorf("--delay %v is negative; 0s removes what has not been used just now", opt.Delay)}
			}
			usual, err := a.defaults(cmd)
			if err != nil {
				return err
			}
			if !cmd.Flags().Changed("delay") {
				opt.Delay = usual.GC.Delay
			}
			opt.MaxSize = usual.GC.MaxSize
			if cmd.Flags().Changed("max-size") {
				if opt.MaxSize, err = parseSize(maxSize); err != nil {
					return err
				}
			}
			store, err := a.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			removed, err := store.GC(cmd.Context(), opt)
			return errors.Join(err, a.printRemoved(cmd, removed, opt.DryRun))
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&opt.Delay, "delay", usualDelay, "how long an image stays after its last use, at least five minutes")
	flags.StringVar(&maxSize, "max-size", "", "how much all images may hold, such as 50GiB; \"\" for as much as there is")
	flags.BoolVar(&opt.DryRun, "dry-run", false, "say what would go, and remove nothing")
	return cmd
}

func (a *app) printRemoved(cmd *cobra.Command, removed []image.Image, dryRun bool) error {
	if a.json {
		list := make([]imageJSON, 0, len(removed))
		for _, img := range removed {
			list = append(list, forJSON(img))
		}
		return printJSON(cmd.OutOrStdout(), list)
	}
	what := "Removed"
	if dryRun {
		what = "Would remove"
	}
	for _, img := range removed {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %s, %s\n", what, shortID(img.ID), OrDash(forJSON(img).Reference), mib(int64(img.Used)))
	}
	return nil
}

// parseSize reads 20G and 50GiB as the plugin's configuration does.
func parseSize(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, usageError{fmt.Errorf("%q is no size; write it as in 50GiB: %w", s, err)}
	}
	return n, nil
}
