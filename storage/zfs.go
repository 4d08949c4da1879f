package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	gozfs "github.com/mistifyio/go-zfs/v4"
)

// ZFS is a store of datasets.
type ZFS struct {
	parent    Dataset
	mountRoot string
	layouts   sync.Map // layout by image ID; it never changes
}

// layout says where in an image its root file system is.
type layout struct {
	root  string // the property
	child bool   // root is a dataset of its own, as in what pot exports
}

const (
	imageSnapshot = "image"
	propPrefix    = "nomad-driver-jail:"
	propID        = propPrefix + "id"   // of a whole image: its own name
	propRoot      = propPrefix + "root" // of an image
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
		return fmt.Errorf("dataset %s: %w", z.parent, plain(err))
	}
	if pool.Health != gozfs.ZpoolOnline && pool.Health != gozfs.ZpoolDegraded {
		return fmt.Errorf("dataset %s: the pool is %s; see zpool status %s", z.parent, pool.Health, pool.Name)
	}
	if pool.ReadOnly {
		return fmt.Errorf("dataset %s: the pool is imported read-only", z.parent)
	}
	return nil
}

func (z *ZFS) Space(context.Context) (free, total uint64, err error) {
	d, err := gozfs.GetDataset(string(z.parent))
	if err != nil {
		return 0, 0, plain(err)
	}
	return d.Avail, d.Avail + d.Used, nil
}

// containers are the datasets that a store consists of. They are never mounted themselves; what is made in them inherits what they say. Nothing
// of an image may come into effect on the host: its files are there to be read. A task's may take effect in its jail, except for devices.
func (z *ZFS) containers() map[Dataset]map[string]string {
	common := map[string]string{"canmount": "off", "devices": "off", "sharenfs": "off"}
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
	if err := z.ensure(z.parent, map[string]string{"canmount": "off", "mountpoint": "none"}, false); err != nil {
		return err
	}
	containers := z.containers()
	for _, d := range slices.Sorted(maps.Keys(containers)) {
		if err := z.ensure(d, containers[d], true); err != nil {
			return err
		}
	}
	return z.mountImages()
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

// mountImages mounts what a reboot or another plugin's death left unmounted.
func (z *ZFS) mountImages() error {
	lines, err := zfs("list", "-H", "-r", "-d", "2", "-t", "filesystem", "-o", "name,mounted", string(z.images()))
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range lines {
		if d := Dataset(l[0]); d != z.images() && l[1] == "no" {
			errs = append(errs, mount(d))
		}
	}
	return errors.Join(errs...)
}

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
		return "", errors.Join(err, z.Discard(context.WithoutCancel(ctx), tmp))
	}
	return z.temporaryDir(tmp), nil
}

// Commit prepares the temporary image and renames it last: the name is what makes it an image.
func (z *ZFS) Commit(ctx context.Context, tmp, id string, props map[string]string) error {
	if err := errors.Join(valid("image", tmp), valid("image", id), validProps(props), ctx.Err()); err != nil {
		return err
	}
	d := z.temporary(tmp)
	settings := []string{"readonly=on", "setuid=off", "exec=off", "devices=off", propID + "=" + id}
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

func (z *ZFS) Images(context.Context) ([]Image, error) {
	props, err := z.imageProps()
	if err != nil {
		return nil, err
	}
	lines, err := zfs("list", "-Hp", "-r", "-d", "3", "-t", "filesystem,snapshot", "-o", "name,used,referenced,clones", string(z.images()))
	if err != nil {
		return nil, err
	}
	byID := map[string]*Image{}
	for _, l := range lines {
		name, _ := strings.CutPrefix(l[0], string(z.images()))
		name, _, isSnapshot := strings.Cut(strings.TrimPrefix(name, "/"), "@")
		id, child, _ := strings.Cut(name, "/")
		if id == "" || props[id][propID] != id {
			continue
		}
		if byID[id] == nil {
			byID[id] = &Image{ID: id, Props: joinProps(props[id]), Root: z.path("images", id, props[id][propRoot])}
			byID[id].Used, _ = strconv.ParseUint(l[1], 10, 64)
		}
		switch {
		case isSnapshot:
			byID[id].Clones = append(byID[id].Clones, z.relative(l[3])...)
		case child == "" || child == potRoot:
			referenced, _ := strconv.ParseUint(l[2], 10, 64)
			byID[id].Referenced += referenced
		}
	}
	var images []Image
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		images = append(images, *byID[id])
	}
	return images, nil
}

// imageProps reads our properties of each image by its ID.
func (z *ZFS) imageProps() (map[string]map[string]string, error) {
	lines, err := zfs("get", "-Hp", "-r", "-d", "1", "-s", "local", "-o", "name,property,value", "all", string(z.images()))
	if err != nil {
		return nil, err
	}
	props := map[string]map[string]string{}
	for _, l := range lines {
		id, ok := strings.CutPrefix(l[0], string(z.images())+"/")
		if !ok || len(l) != 3 || !strings.HasPrefix(l[1], propPrefix) {
			continue
		}
		if props[id] == nil {
			props[id] = map[string]string{}
		}
		props[id][l[1]] = l[2]
	}
	return props, nil
}

// relative turns the property clones into names below the store.
func (z *ZFS) relative(clones string) []string {
	var names []string
	for _, c := range strings.Split(clones, ",") {
		if c != "" && c != "-" {
			names = append(names, strings.TrimPrefix(c, string(z.parent)+"/"))
		}
	}
	return names
}

func (z *ZFS) SetProp(ctx context.Context, id, key, value string) error {
	if err := errors.Join(valid("image", id), validProps(map[string]string{key: value}), ctx.Err()); err != nil {
		return err
	}
	if key == "root" || key == "id" {
		return fmt.Errorf("property %s: an image has it for ever", key)
	}
	return set(z.image(id), assignments(key, value))
}

// maxValue is less than the 1024 bytes that FreeBSD 12's ZFS allows a property's value. Longer ones go into several properties, KEY, KEY.1, …, all
// but the last of this length.
const maxValue = 1000

func assignments(key, value string) []string {
	var all []string
	for n := 0; ; n++ {
		chunk := value[:min(len(value), maxValue)]
		value = value[len(chunk):]
		name := propPrefix + key
		if n > 0 {
			name += "." + strconv.Itoa(n)
		}
		all = append(all, name+"="+chunk)
		if len(chunk) < maxValue {
			return all
		}
	}
}

// joinProps reverses assignments.
func joinProps(raw map[string]string) map[string]string {
	props := map[string]string{}
	for name, value := range raw {
		key := strings.TrimPrefix(name, propPrefix)
		if name == propID || strings.Contains(key, ".") {
			continue
		}
		for n, chunk := 1, value; len(chunk) == maxValue; n++ {
			chunk = raw[name+"."+strconv.Itoa(n)]
			value += chunk
		}
		props[key] = value
	}
	return props
}

func (z *ZFS) ImageRoot(id string) string {
	l, err := z.layout(id)
	if err != nil {
		return z.path("images", id, "") // which does not exist
	}
	return z.path("images", id, l.root)
}

// path is where something of an image or task is mounted on the host.
func (z *ZFS) path(kind, name, folder string) string {
	return filepath.Join(z.mountRoot, kind, name, folder)
}

// layout reads it once: a clone should cost one command.
func (z *ZFS) layout(id string) (layout, error) {
	if l, ok := z.layouts.Load(id); ok {
		return l.(layout), nil
	}
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name,"+propID+","+propRoot, string(z.image(id)))
	if isMissing(err) || err == nil && lines[0][1] != id {
		return layout{}, fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return layout{}, err
	}
	l := layout{root: strings.TrimPrefix(lines[0][2], "-"), child: len(lines) > 1}
	z.layouts.Store(id, l)
	return l, nil
}

// origin is the snapshot that an image's clones are made of, and says whether it is mounted as a task's root, or as the folder around it.
func (z *ZFS) origin(id string) (snapshot string, isRoot bool, err error) {
	l, err := z.layout(id)
	if err != nil {
		return "", false, err
	}
	d := z.image(id)
	if l.child {
		d = d.Child(potRoot)
	}
	return d.Snapshot(imageSnapshot), l.child || l.root == "", nil
}

func (z *ZFS) RemoveImage(ctx context.Context, id string) error {
	if err := valid("image", id); err != nil {
		return err
	}
	z.layouts.Delete(id)
	if err := destroy(ctx, z.image(id)); err != nil {
		if isCloned(err) {
			return fmt.Errorf("image %s: %w", id, ErrInUse)
		}
		return err
	}
	return removeDirs(z.path("images", id, ""))
}

// Clone is one command for an image that was cloned before.
func (z *ZFS) Clone(ctx context.Context, id, name string, opt CloneOptions) (string, error) {
	if err := errors.Join(valid("image", id), valid("task", name), ctx.Err()); err != nil {
		return "", err
	}
	if control.MatchString(opt.TaskID) || opt.TaskID == "" || len(opt.TaskID) > maxValue {
		return "", fmt.Errorf("task ID %q: not a name", opt.TaskID)
	}
	origin, isRoot, err := z.origin(id)
	if err != nil {
		return "", err
	}
	dir := z.path("tasks", name, "")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	at := dir
	if isRoot {
		at = z.TaskRoot(name)
	}
	args := []string{"clone", "-o", "mountpoint=" + at, "-o", propTask + "=" + opt.TaskID}
	if opt.Quota > 0 {
		args = append(args, "-o", "quota="+strconv.FormatUint(opt.Quota, 10))
	}
	_, err = zfs(append(args, origin, string(z.task(name)))...)
	switch {
	case isExists(err):
		return "", fmt.Errorf("task %s: its root %w", name, ErrExists)
	case isMissing(err):
		z.layouts.Delete(id)
		return "", errors.Join(fmt.Errorf("image %s: %w", id, ErrNotFound), removeDirs(dir))
	case err == nil:
		err = checkMounted(at, z.TaskRoot(name))
	}
	if err != nil {
		return "", errors.Join(err, z.RemoveTask(context.WithoutCancel(ctx), name))
	}
	return z.TaskRoot(name), nil
}

// checkMounted refuses a root that is part of the host's file system.
func checkMounted(at, root string) error {
	here, err := os.Lstat(at)
	if err != nil {
		return err
	}
	above, err := os.Lstat(filepath.Dir(at))
	if err != nil {
		return err
	}
	if device(here) == device(above) {
		return fmt.Errorf("%s is not mounted", at)
	}
	if info, err := os.Lstat(root); err != nil || !info.IsDir() {
		return fmt.Errorf("%s is not a directory", root)
	}
	return nil
}

func device(info os.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Dev) }

func (z *ZFS) Tasks(context.Context) ([]Task, error) {
	lines, err := zfs("list", "-H", "-r", "-d", "1", "-t", "filesystem", "-o", "name,"+propTask, string(z.tasks()))
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

func (z *ZFS) TaskRoot(name string) string { return z.path("tasks", name, potRoot) }

func (z *ZFS) RemoveTask(ctx context.Context, name string) error {
	if err := valid("task", name); err != nil {
		return err
	}
	root := z.TaskRoot(name)
	err := retry(ctx, func() error {
		if err := UnmountAll(root); err != nil {
			return err
		}
		return destroyOnce(z.task(name))
	})
	if err != nil {
		return err
	}
	return removeDirs(root, filepath.Dir(root))
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

// Send's stream ends with ctx as soon as w takes no more of it.
func (z *ZFS) Send(ctx context.Context, from, id string, w io.Writer) error {
	if err := valid("image", id); err != nil {
		return err
	}
	w = untilDone{ctx, w}
	if l, err := z.layout(id); err != nil {
		return err
	} else if l.child {
		return fmt.Errorf("image %s: one of pot's, of two datasets, is not sent on; build an image from it", id)
	}
	snapshot := func(id string) *gozfs.Dataset {
		return &gozfs.Dataset{Name: z.image(id).Snapshot(imageSnapshot), Type: gozfs.DatasetSnapshot}
	}
	var err error
	if from == "" {
		err = plain(snapshot(id).SendSnapshot(w))
	} else if err = valid("image", from); err == nil {
		err = plain(snapshot(id).IncrementalSend(snapshot(from), w))
	}
	if isMissing(err) {
		return errors.Join(fmt.Errorf("image %s or %s: %w", id, from, ErrNotFound), err)
	}
	return err
}

// untilDone is a writer that fails when ctx has ended.
type untilDone struct {
	ctx context.Context
	w   io.Writer
}

func (u untilDone) Write(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(p)
}

// retry calls f until it does not say busy: what has just ended in a dataset holds it for a moment.
func retry(ctx context.Context, f func() error) error {
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := f()
		if err == nil || !isBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up: %w", err)
		case <-time.After(pause):
		}
	}
}
