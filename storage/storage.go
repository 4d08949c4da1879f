// Package storage keeps images and the root file systems of tasks on the host: as ZFS datasets and their clones, or, where there is no ZFS, as
// plain directories and copies. It also furnishes a task's root with mounts and with copied files.
//
// Below its parent, a dataset or a directory, a store holds
//
//	images/ID      images, read-only
//	tasks/NAME     tasks' roots, each a clone of an image
//	incoming/TMP   images that are not whole yet
//
// and nothing else says what there is (a directory also has locks, whose holders are at work in the store, and the name of its owner): what a store holds can be listed, and removed, knowing only the parent.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

var (
	ErrExists   = errors.New("exists already")
	ErrNotFound = errors.New("is not in the store")
	ErrInUse    = errors.New("is in use")
	ErrNotMade  = errors.New("is not made yet")
	ErrBusy     = errors.New("busy: something on the host has files of it open, or holds its snapshot (zfs holds shows that)")
)

// Backend is a store. Its methods may be called at the same time, also from several processes. Names (of images, tasks and temporary images) are
// one component of a path: letters, digits, and . _ - after the first.
type Backend interface {
	// Format is what Receive reads and Send writes: "zfs", the stream of one snapshot, or "tar".
	Format() string
	// Check tells why the store can't be used, and the way out.
	Check(ctx context.Context) error
	// Prepare makes the store ready, or does nothing to one that is.
	Prepare(ctx context.Context) error
	// Space is in bytes, of all that the parent may hold: ErrNotMade where there is no parent yet and Prepare could make it.
	Space(ctx context.Context) (free, total uint64, err error)

	// Receive reads a stream as it arrives into the temporary image tmp. The stream of an incremental image needs base, the ID of the image that it
	// differs from. On error nothing is left. When ctx ends the store lets go of what it received, but Receive returns only after the stream's
	// Read has, so that should end with ctx too.
	Receive(ctx context.Context, tmp, base string, stream io.Reader) error
	// Create makes the temporary image tmp, empty or a copy of the image base, for the caller to change below root, which is on the host.
	Create(ctx context.Context, tmp, base string) (root string, err error)
	// Seal ends what Create began: from now on nothing in the temporary image changes.
	Seal(ctx context.Context, tmp string) error
	// Commit makes an image of a received or sealed temporary one, at once and for ever: ErrExists if there is one of that ID.
	Commit(ctx context.Context, tmp, id string, props map[string]string) error
	// Discard removes a temporary image, or says soon that it is ErrBusy. None there is no error.
	Discard(ctx context.Context, tmp string) error
	// Temporary lists the temporary images, of running pulls and of killed ones.
	Temporary(ctx context.Context) ([]string, error)

	Images(ctx context.Context) ([]Image, error)
	// SetProp sets a property of an image, of any length but without control characters.
	SetProp(ctx context.Context, id, key, value string) error
	// ImageRoot is the path of an image's root on the host, to be read only, and mounts it there if nobody did yet: a start from an image
	// takes no more than its name. Programs in it cannot be run there. Without such an image it is ErrNotFound.
	ImageRoot(ctx context.Context, id string) (string, error)
	// RemoveImage refuses an image with clones with ErrInUse, and one that stays busy for a moment with ErrBusy. None there is no error.
	RemoveImage(ctx context.Context, id string) error
	// Send writes the stream of an image; of what differs from the image from, unless that is "".
	Send(ctx context.Context, from, id string, w io.Writer) error

	// Clone makes a task's root from an image and returns its path on the host.
	Clone(ctx context.Context, id, name string, opt CloneOptions) (root string, err error)
	// Tasks are none in a store that is not made yet.
	Tasks(ctx context.Context) ([]Task, error)
	TaskRoot(name string) string
	// RemoveTask unmounts all below a task's root and removes it, for as long as ctx lets it try. None there is no error. With force it
	// takes the root from whatever keeps it busy.
	RemoveTask(ctx context.Context, name string, force bool) error
}

// Image is an image in a store.
type Image struct {
	ID               string
	Props            map[string]string
	Used, Referenced uint64   // bytes: what removing it would free; what its files take
	Clones           []string // what was made of it: tasks/NAME, images/ID, incoming/TMP
}

// Task is a task's root in a store.
type Task struct {
	Name   string
	TaskID string // Nomad's
	Root   string
}

// CloneOptions say what a task's root is for.
type CloneOptions struct {
	TaskID string // Nomad's, to be found again with Tasks
	Quota  uint64 // bytes that the task may write; 0 for as many as there are
}

// Dataset is the name of a ZFS dataset, such as tank/jails.
type Dataset string

var (
	component = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
	control   = regexp.MustCompile(`[\x00-\x1f\x7f]`)
)

// Valid refuses what ZFS or this package would not take for a name.
func (d Dataset) Valid() error {
	for _, c := range strings.Split(string(d), "/") {
		if !component.MatchString(c) {
			return fmt.Errorf("dataset %q: not the name of one; it is written POOL or POOL/NAME, of letters, digits and . _ -", d)
		}
	}
	// ZFS's limit is 255 bytes with a snapshot's name.
	if len(d) > 120 {
		return fmt.Errorf("dataset %q: its name is longer than 120 bytes and leaves too few for what is made below it", d)
	}
	return nil
}

// Child is the dataset of that name below d.
func (d Dataset) Child(name string) Dataset { return d + "/" + Dataset(name) }

// Snapshot is a snapshot of d.
func (d Dataset) Snapshot(name string) string { return string(d) + "@" + name }

// Pool is the pool that d is in.
func (d Dataset) Pool() string {
	pool, _, _ := strings.Cut(string(d), "/")
	return pool
}

// valid refuses what could be anything but one component of a path.
func valid(kind, name string) error {
	if !component.MatchString(name) || len(name) > 80 {
		return fmt.Errorf("%s %q: a name is at most 80 letters, digits and . _ -, and begins with a letter or digit", kind, name)
	}
	return nil
}

func validProps(props map[string]string) error {
	for key, value := range props {
		if !regexp.MustCompile(`^[a-z0-9_-]{1,80}$`).MatchString(key) {
			return fmt.Errorf("property %q: its name is lower-case letters, digits, _ and -", key)
		}
		if control.MatchString(value) {
			return fmt.Errorf("property %s: its value has a control character", key)
		}
	}
	return nil
}
