package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Directory is a store of plain files, for hosts without ZFS. Its images are read-only by custom only, and a clone is a whole copy. An image
// or task is a folder that only root can go through, with its files in root and what is known of it in about.json.
type Directory struct{ dir, stateDir string }

const (
	rootDir   = "root"
	aboutFile = "about.json"
)

// about is what a directory store knows of an image or a task.
type about struct {
	Props  map[string]string `json:",omitempty"`
	Size   uint64            `json:",omitempty"` // of an image's files, in bytes
	TaskID string            `json:",omitempty"`
	Image  string            `json:",omitempty"` // what a task is a clone of
}

// NewDirectory is a store below dir for the driver whose state is in stateDir. It touches nothing.
func NewDirectory(dir, stateDir string) *Directory {
	return &Directory{filepath.Clean(dir), filepath.Clean(stateDir)}
}

func (d *Directory) path(kind, name string) string { return filepath.Join(d.dir, kind, name) }

func (d *Directory) Format() string { return "tar" }

func (d *Directory) Check(context.Context) error {
	if !filepath.IsAbs(d.dir) {
		return fmt.Errorf("directory %q: not an absolute path", d.dir)
	}
	info, err := os.Stat(d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(d.dir)) // Prepare makes it
	}
	if err != nil {
		return fmt.Errorf("directory %s: %w; make it", d.dir, err)
	}
	if !info.IsDir() {
		return fmt.Errorf("directory %s: not a directory", d.dir)
	}
	return d.checkOwner()
}

func (d *Directory) Prepare(ctx context.Context) error {
	if err := d.Check(ctx); err != nil {
		return err
	}
	if err := privateDirs(d.dir); err != nil {
		return err
	}
	if err := d.own(); err != nil {
		return err
	}
	return privateDirs(d.dir, "images", "tasks", "incoming")
}

func (d *Directory) Space(context.Context) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.dir, &s); errors.Is(err, fs.ErrNotExist) {
		return 0, 0, fmt.Errorf("directory %s %w", d.dir, ErrNotMade)
	} else if err != nil {
		return 0, 0, fmt.Errorf("directory %s: %w", d.dir, err)
	}
	block := uint64(s.Bsize)
	return uint64(s.Bavail) * block, s.Blocks * block, nil
}

func (d *Directory) Receive(ctx context.Context, tmp, base string, stream io.Reader) error {
	root, err := d.Create(ctx, tmp, base)
	if err != nil {
		return err
	}
	if err := Extract(ctx, root, stream); err != nil {
		return errors.Join(err, d.Discard(ctx, tmp))
	}
	return nil
}

func (d *Directory) Create(ctx context.Context, tmp, base string) (root string, err error) {
	if err := errors.Join(valid("image", tmp), ctx.Err()); err != nil {
		return "", err
	}
	dir := d.path("incoming", tmp)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("temporary image %s: %w", tmp, ErrExists)
	} else if err != nil {
		return "", err
	}
	root = filepath.Join(dir, rootDir)
	if base == "" {
		err = os.Mkdir(root, 0o755)
	} else {
		err = d.copyImage(base, dir)
	}
	if err != nil {
		return "", errors.Join(err, d.Discard(ctx, tmp))
	}
	return root, nil
}

// lockImage is shared by those that copy an image, and excludes its removal. It holds until it is closed or this process ends.
func (d *Directory) lockImage(id string, how int) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.path("images", id), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("image %s: %w", id, ErrInUse)
	}
	return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
}

// copyImage copies the files of an image into a folder of its own.
func (d *Directory) copyImage(id, dir string) error {
	if err := valid("image", id); err != nil {
		return err
	}
	lock, err := d.lockImage(id, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer lock.Close()
	src, err := os.OpenRoot(d.path("images", id))
	if errors.Is(err, fs.ErrNotExist) { // removed while the lock was waited for
		return fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer dst.Close()
	return Copy(src, rootDir, dst, rootDir)
}

// Seal has nothing to do: a name is all that an image has beyond a temporary one.
func (d *Directory) Seal(_ context.Context, tmp string) error { return valid("image", tmp) }

// Commit sees to it that the files are on the disk before the image's name is.
func (d *Directory) Commit(ctx context.Context, tmp, id string, props map[string]string) error {
	if err := errors.Join(valid("image", tmp), valid("image", id), validProps(props), ctx.Err()); err != nil {
		return err
	}
	dir := d.path("incoming", tmp)
	size, err := treeSize(dir)
	if err != nil {
		return err
	}
	if err := writeAbout(dir, about{Props: props, Size: size}); err != nil {
		return err
	}
	unix.Sync()
	err = os.Rename(dir, d.path("images", id))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("image %s: %w", id, ErrExists)
	}
	return err
}

// treeSize refuses what could not be copied, and so not be cloned.
func treeSize(dir string) (size uint64, err error) {
	err = filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			info, err = entry.Info()
		}
		if name := file[len(dir):]; len(name) > pathMax || errors.Is(err, syscall.ENAMETOOLONG) {
			return fmt.Errorf("%s: %w", Clip(name, 200), errLongPath)
		}
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		size += uint64(stat.Blocks) * 512 / max(1, uint64(stat.Nlink))
		return nil
	})
	return size, err
}

func writeAbout(dir string, a about) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	next := filepath.Join(dir, aboutFile+".new")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, aboutFile))
}

func readAbout(dir string) (about, error) {
	var a about
	text, err := os.ReadFile(filepath.Join(dir, aboutFile))
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(text, &a); err != nil {
		return a, fmt.Errorf("%s: %w", filepath.Join(dir, aboutFile), err)
	}
	return a, nil
}

func (d *Directory) Discard(_ context.Context, tmp string) error {
	if err := valid("image", tmp); err != nil {
		return err
	}
	return d.remove("incoming", tmp)
}

// remove refuses to remove what is mounted from elsewhere.
func (d *Directory) remove(kind, name string) error {
	if err := UnmountAll(d.path(kind, name)); err != nil {
		return err
	}
	parent, err := os.OpenRoot(filepath.Join(d.dir, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return removeAll(parent, name)
}

func (d *Directory) Temporary(context.Context) ([]string, error) { return d.names("incoming") }

func (d *Directory) names(kind string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, kind))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d *Directory) Images(ctx context.Context) ([]Image, error) {
	clones, err := d.clones()
	if err != nil {
		return nil, err
	}
	ids, err := d.names("images")
	var images []Image
	for _, id := range ids {
		a, e := readAbout(d.path("images", id))
		if errors.Is(e, fs.ErrNotExist) {
			continue // just removed
		}
		err = errors.Join(err, e)
		images = append(images, Image{ID: id, Props: a.Props, Used: a.Size, Referenced: a.Size, Clones: clones[id]})
	}
	return images, err
}

// clones lists the clones of each image.
func (d *Directory) clones() (map[string][]string, error) {
	names, err := d.names("tasks")
	clones := map[string][]string{}
	for _, name := range names {
		if a, err := readAbout(d.path("tasks", name)); err == nil {
			clones[a.Image] = append(clones[a.Image], "tasks/"+name)
		}
	}
	return clones, err
}

func (d *Directory) SetProp(ctx context.Context, id, key, value string) error {
	if err := errors.Join(valid("image", id), validProps(map[string]string{key: value}), ctx.Err()); err != nil {
		return err
	}
	dir := d.path("images", id)
	lock, err := lockFile(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := readAbout(dir)
	if err != nil {
		return err
	}
	if a.Props == nil {
		a.Props = map[string]string{}
	}
	a.Props[key] = value
	return writeAbout(dir, a)
}

// lockFile locks a directory until it is closed or this process ends.
func lockFile(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (d *Directory) ImageRoot(_ context.Context, id string) (string, error) {
	if err := valid("image", id); err != nil {
		return "", err
	}
	root := filepath.Join(d.path("images", id), rootDir)
	_, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("image %s: %w", id, ErrNotFound)
	}
	return root, err
}

func (d *Directory) RemoveImage(_ context.Context, id string) error {
	if err := valid("image", id); err != nil {
		return err
	}
	trash := "removed-" + id
	if err := d.remove("incoming", trash); err != nil {
		return err
	}
	err := d.takeName(id, trash)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.remove("incoming", trash)
}

// takeName makes an image that nobody uses a temporary one: its name goes before its files, since half an image is none.
func (d *Directory) takeName(id, trash string) error {
	lock, err := d.lockImage(id, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return err
	}
	defer lock.Close()
	clones, err := d.clones()
	if err != nil {
		return err
	}
	if len(clones[id]) > 0 {
		return fmt.Errorf("image %s: %w", id, ErrInUse)
	}
	return os.Rename(d.path("images", id), d.path("incoming", trash))
}

func (d *Directory) Clone(ctx context.Context, id, name string, opt CloneOptions) (string, error) {
	if err := errors.Join(valid("image", id), valid("task", name), ctx.Err()); err != nil {
		return "", err
	}
	if opt.Quota > 0 {
		return "", errors.New("quota: a directory store can't limit what a task writes; use a ZFS dataset")
	}
	dir := d.path("tasks", name)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("task %s: its root %w", name, ErrExists)
	} else if err != nil {
		return "", err
	}
	err := writeAbout(dir, about{TaskID: opt.TaskID, Image: id})
	if err == nil {
		err = d.copyImage(id, dir)
	}
	if err != nil {
		clean, cancel := cleanup(ctx)
		defer cancel()
		return "", errors.Join(err, d.RemoveTask(clean, name, false))
	}
	return d.TaskRoot(name), nil
}

// Tasks asks whose they are: what is listed and not known is taken for a leftover.
func (d *Directory) Tasks(context.Context) ([]Task, error) {
	if err := d.checkOwner(); err != nil {
		return nil, err
	}
	names, err := d.names("tasks")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var tasks []Task
	for _, name := range names {
		a, _ := readAbout(d.path("tasks", name)) // one killed in Clone has none
		tasks = append(tasks, Task{Name: name, TaskID: a.TaskID, Root: d.TaskRoot(name)})
	}
	return tasks, err
}

func (d *Directory) TaskRoot(name string) string {
	return filepath.Join(d.path("tasks", name), rootDir)
}

func (d *Directory) RemoveTask(ctx context.Context, name string, _ bool) error {
	if err := valid("task", name); err != nil {
		return err
	}
	return retry(ctx, func() error { return d.remove("tasks", name) })
}

func (d *Directory) Send(ctx context.Context, from, id string, w io.Writer) error {
	root, err := d.ImageRoot(ctx, id)
	base := ""
	if err == nil && from != "" {
		base, err = d.ImageRoot(ctx, from)
	}
	if err != nil {
		return err
	}
	return archive(untilDone{ctx, w}, root, base)
}
