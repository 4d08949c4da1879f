package storage

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

// ZFS is a store of datasets.
type ZFS struct {
	parent    Dataset
	mountRoot string
	mounting  sync.Mutex // of images
}

const (
	imageSnapshot = "image"
	propPrefix    = "nomad-driver-jail:"
	propID        = propPrefix + "id"   // of a whole image: its own name
	propTask      = propPrefix + "task" // of a task's clone: Nomad's ID
)

// NewZFS is a store below parent, with its mounts below the directory mountRoot. It touches nothing.
func NewZFS(parent Dataset, mountRoot string) *ZFS {
	return &ZFS{parent: parent, mountRoot: filepath.Clean(mountRoot)}
}

func (z *ZFS) images() Dataset              { return z.parent.Child("images") }
func (z *ZFS) tasks() Dataset               { return z.parent.Child("tasks") }
func (z *ZFS) incoming() Dataset            { return z.parent.Child("incoming") }
func (z *ZFS) image(id string) Dataset      { return z.images().Child(id) }
func (z *ZFS) task(name string) Dataset     { return z.tasks().Child(name) }
func (z *ZFS) temporary(tmp string) Dataset { return z.incoming().Child(tmp) }

func (z *ZFS) Format() string { return "zfs" }

func (z *ZFS) Check(context.Context) error {
	if err := z.parent.Valid(); err != nil {
		return err
	}
	for _, command := range []string{"zfs", "zpool"} {
		if _, err := exec.LookPath(command); err != nil {
			return fmt.Errorf("ZFS: no command %s in PATH (%s); install ZFS, or keep images in a directory", command, os.Getenv("PATH"))
		}
	}
	pool, err := gozfs.GetZpool(z.parent.Pool())
	if err != nil {
		return fmt.Errorf("dataset %s: %w; zpool list shows the pools that are here, zpool import those that could be", z.parent, plain(err))
	}
	if pool.Health != gozfs.ZpoolOnline && pool.Health != gozfs.ZpoolDegraded {
		return fmt.Errorf("dataset %s: the pool is %s; see zpool status %s", z.parent, pool.Health, pool.Name)
	}
	if pool.ReadOnly {
		return fmt.Errorf("dataset %s: the pool is imported read-only", z.parent)
	}
	return z.checkMountpoints()
}

// checkMountpoints refuses a store that is mounted elsewhere: to move its mounts would take the running tasks' roots away, and what is at work
// in it has its locks beside them.
func (z *ZFS) checkMountpoints() error {
	lines, err := zfs("get", "-Hp", "-r", "-d", "1", "-s", "local,received", "-o", "name,value", "mountpoint", string(z.parent))
	if isMissing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	containers := z.containers()
	for _, l := range lines {
		want, ours := containers[Dataset(l[0])]["mountpoint"]
		if have := l[1]; ours && have != want {
			mountRoot := filepath.Dir(have)
			return fmt.Errorf("dataset %s: its store is mounted in %s and not in %s; give the folder of the driver's state that it belongs to: --state-dir %s, the plugin's state_dir",
				z.parent, mountRoot, z.mountRoot, filepath.Dir(mountRoot))
		}
	}
	return nil
}

func (z *ZFS) Space(context.Context) (free, total uint64, err error) {
	d, err := gozfs.GetDataset(string(z.parent))
	switch err = plain(err); {
	case isMissing(err):
		return 0, 0, z.notMade()
	case err != nil:
		return 0, 0, err
	}
	return d.Avail, d.Avail + d.Used, nil
}

// notMade says whether the dataset above the parent, in which it is made, is there.
func (z *ZFS) notMade() error {
	above := path.Dir(string(z.parent))
	_, err := gozfs.GetDataset(above)
	switch err = plain(err); {
	case isMissing(err):
		return fmt.Errorf("dataset %s: there is no %s to make it in; zfs create -p %s makes that", z.parent, above, above)
	case err != nil:
		return err
	}
	return fmt.Errorf("dataset %s %w", z.parent, ErrNotMade)
}

// containers are the datasets that a store consists of. They are never mounted themselves; what is made in them inherits what they say. Nothing
// of an image may come into effect on the host: its files are there to be read. A task's may take effect in its jail, except for devices.
func (z *ZFS) containers() map[Dataset]map[string]string {
	common := map[string]string{"canmount": "off", "sharenfs": "off"}
	if runtime.GOOS != "freebsd" { // whose devices are in devfs only
		common["devices"] = "off"
	}
	with := func(props map[string]string) map[string]string {
		maps.Copy(props, common)
		return props
	}
	return map[Dataset]map[string]string{
		z.images(): with(map[string]string{
			"mountpoint": filepath.Join(z.mountRoot, "images"), "readonly": "on", "setuid": "off", "exec": "off", "atime": "off",
		}),
		z.incoming(): with(map[string]string{"mountpoint": filepath.Join(z.mountRoot, "incoming"), "setuid": "off", "exec": "off", "atime": "off"}),
		z.tasks():    with(map[string]string{"mountpoint": filepath.Join(z.mountRoot, "tasks"), "setuid": "on", "exec": "on", "readonly": "off"}),
	}
}

// Prepare makes the parent if the dataset above it exists.
func (z *ZFS) Prepare(ctx context.Context) error {
	if err := z.Check(ctx); err != nil {
		return err
	}
	if err := privateDirs(z.mountRoot, "images", "tasks", "incoming"); err != nil {
		return err
	}
	if err := z.ensure(z.parent, map[string]string{"canmount": "off", "mountpoint": "none"}, false); isMissing(err) {
		return z.notMade()
	} else if err != nil {
		return err
	}
	containers := z.containers()
	for _, d := range slices.Sorted(maps.Keys(containers)) {
		if err := z.ensure(d, containers[d], true); err != nil {
			return err
		}
	}
	return nil
}

// privateDirs makes directories that only root can go through. A task's root is below one: a user of the host must not reach the setuid programs
// that a task's root may have put there.
func privateDirs(parent string, names ...string) error {
	for _, dir := range append([]string{""}, names...) {
		dir = filepath.Join(parent, dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// ensure makes a dataset, or, if the store owns it, sets what has changed.
func (z *ZFS) ensure(d Dataset, props map[string]string, own bool) error {
	names := slices.Sorted(maps.Keys(props))
	lines, err := zfs("list", "-Hp", "-o", strings.Join(names, ","), string(d))
	if isMissing(err) {
		_, err = gozfs.CreateFilesystem(string(d), props)
		return plain(err)
	}
	if err != nil || !own {
		return err
	}
	var changed []string
	for i, have := range lines[0] {
		if have != props[names[i]] {
			changed = append(changed, names[i]+"="+props[names[i]])
		}
	}
	return set(d, changed)
}

// path is where something of this store is mounted on the host.
func (z *ZFS) path(kind, name string) string { return filepath.Join(z.mountRoot, kind, name) }
