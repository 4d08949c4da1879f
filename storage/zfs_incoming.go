package storage

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Create lets programs in the image run: building one may take that, in a jail.
func (z *ZFS) Create(ctx context.Context, tmp, base string) (root string, err error) {
	if err := errors.Join(valid("image", tmp), ctx.Err()); err != nil {
		return "", err
	}
	args := []string{"create", "-o", "exec=on", "-o", "setuid=on"}
	if base != "" {
		args[0] = "clone"
		args = append(args, z.image(base).Snapshot(imageSnapshot))
	}
	_, err = zfs(append(args, string(z.temporary(tmp)))...)
	switch {
	case isExists(err):
		return "", fmt.Errorf("temporary image %s: %w", tmp, ErrExists)
	case isMissing(err) && base != "":
		return "", fmt.Errorf("image %s: %w", base, ErrNotFound)
	case err != nil:
		clean, cancel := cleanup(ctx)
		defer cancel()
		return "", errors.Join(err, z.Discard(clean, tmp))
	}
	return z.path("incoming", tmp), nil
}

// Seal makes the snapshot that Receive makes too, and takes back what Create allowed.
func (z *ZFS) Seal(ctx context.Context, tmp string) error {
	if err := errors.Join(valid("image", tmp), ctx.Err()); err != nil {
		return err
	}
	d := z.temporary(tmp)
	if _, err := zfs("snapshot", d.Snapshot(imageSnapshot)); err != nil {
		return err
	}
	return set(d, []string{"setuid=off", "exec=off"})
}

// Commit prepares the temporary image and renames it last: the name is what makes it an image.
func (z *ZFS) Commit(ctx context.Context, tmp, id string, props map[string]string) error {
	if err := errors.Join(valid("image", tmp), valid("image", id), validProps(props), ctx.Err()); err != nil {
		return err
	}
	d := z.temporary(tmp)
	settings := []string{propID + "=" + id}
	for key, value := range props {
		settings = append(settings, assignments(key, value)...)
	}
	if err := set(d, settings); err != nil {
		return fmt.Errorf("image %s: %w", id, err)
	}
	_, err := zfs("rename", string(d), string(z.image(id)))
	if isExists(err) {
		return fmt.Errorf("image %s: %w", id, ErrExists)
	}
	return err
}

func (z *ZFS) Discard(ctx context.Context, tmp string) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	if err := UnmountAll(z.path("incoming", tmp)); err != nil {
		return err
	}
	if err := destroy(ctx, z.temporary(tmp)); err != nil {
		return err
	}
	return removeDirs(z.path("incoming", tmp))
}

func (z *ZFS) Temporary(context.Context) ([]string, error) {
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name", string(z.incoming()))
	if isMissing(err) {
		return nil, fmt.Errorf("dataset %s: %w", z.incoming(), ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l[0], string(z.incoming())+"/"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
