package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

// Create lets programs in the image run: building one may take that, in a jail.
func (z *ZFS) Create(ctx context.Context, tmp, base string) (root string, err error) {
	if err := errors.Join(valid("image", tmp), ctx.Err()); err != nil {
		return "", err
	}
	args := []string{"create", "-o", "exec=on", "-o", "setuid=on"}
	if base != "" {
		origin, isRoot, err := z.origin(base)
		if err == nil && !isRoot {
			err = fmt.Errorf("image %s: its root is a folder in it, and it can't be a base", base)
		}
		if err != nil {
			return "", err
		}
		args[0] = "clone"
		args = append(args, origin)
	}
	_, err = zfs(append(args, string(z.temporary(tmp)))...)
	if isExists(err) {
		return "", fmt.Errorf("temporary image %s: %w", tmp, ErrExists)
	}
	if err != nil {
		clean, cancel := cleanup(ctx)
		defer cancel()
		return "", errors.Join(err, z.Discard(clean, tmp))
	}
	return z.temporaryDir(tmp), nil
}

// Commit prepares the temporary image and renames it last: the name is what makes it an image.
func (z *ZFS) Commit(ctx context.Context, tmp, id string, props map[string]string) error {
	if err := errors.Join(valid("image", tmp), valid("image", id), validProps(props), ctx.Err()); err != nil {
		return err
	}
	d := z.temporary(tmp)
	settings := []string{"readonly=on", "setuid=off", "exec=off", propID + "=" + id}
	for key, value := range props {
		settings = append(settings, assignments(key, value)...)
	}
	if err := errors.Join(nameSnapshot(d), set(d, settings), mount(d)); err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	if err := checkRoot(z.temporaryDir(tmp), props["root"]); err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	child, err := z.adoptChild(tmp, props["root"])
	if err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	_, err = (&gozfs.Dataset{Name: string(d)}).Rename(string(z.image(id)), false, false)
	if err = plain(err); isExists(err) {
		return fmt.Errorf("image %s: %w", id, ErrExists)
	}
	if err != nil || !child {
		return err
	}
	return mount(z.image(id).Child(potRoot))
}

// nameSnapshot makes the one snapshot that an image has, or gives the one that a stream brought its name.
func nameSnapshot(d Dataset) error {
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "snapshot", "-o", "name", string(d))
	if err != nil {
		return err
	}
	wanted := d.Snapshot(imageSnapshot)
	switch {
	case len(lines) == 0:
		_, err = (&gozfs.Dataset{Name: string(d)}).Snapshot(imageSnapshot, false)
	case len(lines) > 1:
		err = fmt.Errorf("%s has %d snapshots; an image is one", d, len(lines))
	case lines[0][0] != wanted:
		_, err = (&gozfs.Dataset{Name: lines[0][0]}).Rename(wanted, false, false)
	}
	return plain(err)
}

// adoptChild moves the second dataset of a temporary image below the first. Until here they are side by side: the folder that it is to be mounted
// on could have been a symlink, and not only this package mounts datasets.
func (z *ZFS) adoptChild(tmp, root string) (bool, error) {
	child := z.temporaryChild(tmp)
	if _, err := zfs("list", "-H", "-o", "name", string(child)); isMissing(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if root != potRoot {
		return false, fmt.Errorf("it has a child dataset %s and is not one of pot's", potRoot)
	}
	if err := nameSnapshot(child); err != nil {
		return false, err
	}
	_, err := (&gozfs.Dataset{Name: string(child)}).Rename(string(z.temporary(tmp).Child(potRoot)), false, false)
	return true, plain(err)
}

// checkRoot looks at the folder that an image says its root is in. That could be a symlink to the host's own root.
func checkRoot(dir, root string) error {
	if root == "" {
		return nil
	}
	info, err := os.Lstat(filepath.Join(dir, root))
	if err != nil || !info.IsDir() {
		return fmt.Errorf("it has no folder %s to be its root", root)
	}
	return nil
}

func (z *ZFS) temporaryDir(tmp string) string { return filepath.Join(z.mountRoot, "incoming", tmp) }

// childMark is in the name of a temporary image's second dataset. No image has it in its own.
const childMark = ":" + potRoot

func (z *ZFS) temporaryChild(tmp string) Dataset { return z.temporary(tmp + childMark) }

func (z *ZFS) Discard(ctx context.Context, tmp string) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	for _, name := range []string{tmp + childMark, tmp} {
		if err := UnmountAll(z.temporaryDir(name)); err != nil {
			return err
		}
		if err := destroy(ctx, z.temporary(name)); err != nil {
			return err
		}
		if err := removeDirs(z.temporaryDir(name)); err != nil {
			return err
		}
	}
	return nil
}

func (z *ZFS) Temporary(context.Context) ([]string, error) {
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name", string(z.incoming()))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l[0], string(z.incoming())+"/"); ok {
			names = append(names, strings.TrimSuffix(name, childMark))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
