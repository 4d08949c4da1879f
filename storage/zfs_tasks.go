package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

// Clone is one command: a task's start waits for it.
func (z *ZFS) Clone(ctx context.Context, id, name string, opt CloneOptions) (string, error) {
	if err := errors.Join(valid("image", id), valid("task", name), ctx.Err()); err != nil {
		return "", err
	}
	if control.MatchString(opt.TaskID) || opt.TaskID == "" || len(opt.TaskID) > maxValue {
		return "", fmt.Errorf("task ID %q: not a name", opt.TaskID)
	}
	args := []string{"clone", "-o", propTask + "=" + opt.TaskID}
	if opt.Quota > 0 {
		args = append(args, "-o", "quota="+strconv.FormatUint(opt.Quota, 10))
	}
	_, err := zfs(append(args, z.image(id).Snapshot(imageSnapshot), string(z.task(name)))...)
	switch {
	case isExists(err):
		return "", fmt.Errorf("task %s: its root %w", name, ErrExists)
	case isMissing(err):
		return "", fmt.Errorf("image %s: %w", id, ErrNotFound)
	case err == nil:
		err = checkMounted(z.TaskRoot(name))
	}
	if err != nil {
		clean, cancel := cleanup(ctx)
		defer cancel()
		return "", errors.Join(err, z.RemoveTask(clean, name, false))
	}
	return z.TaskRoot(name), nil
}

// checkMounted refuses a root that is part of the host's file system.
func checkMounted(root string) error {
	here, err := os.Lstat(root)
	if err != nil {
		return err
	}
	above, err := os.Lstat(filepath.Dir(root))
	if err != nil {
		return err
	}
	if device(here) == device(above) {
		return fmt.Errorf("%s is not mounted", root)
	}
	return nil
}

func device(info os.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Dev) }

func (z *ZFS) Tasks(ctx context.Context) ([]Task, error) {
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name,"+propTask, string(z.tasks()))
	if isMissing(err) { // the tasks' dataset only, or something above the store?
		if _, _, err = z.Space(ctx); errors.Is(err, ErrNotMade) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	var tasks []Task
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l[0], string(z.tasks())+"/"); ok {
			tasks = append(tasks, Task{Name: name, TaskID: l[1], Root: z.TaskRoot(name)})
		}
	}
	return tasks, nil
}

func (z *ZFS) TaskRoot(name string) string { return z.path("tasks", name) }

func (z *ZFS) RemoveTask(ctx context.Context, name string, force bool) error {
	if err := valid("task", name); err != nil {
		return err
	}
	var how gozfs.DestroyFlag = gozfs.DestroyRecursive
	if force {
		how |= gozfs.DestroyForceUmount
	}
	root := z.TaskRoot(name)
	err := retry(ctx, func() error {
		if err := UnmountAll(root); err != nil {
			return err
		}
		return destroyOnce(z.task(name), how)
	})
	if err != nil {
		return err
	}
	return removeDirs(root)
}

// removeDirs removes mount points. Of a directory with something in it, it removes nothing.
func removeDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
