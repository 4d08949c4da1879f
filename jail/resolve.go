package jail

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Resolve checks Command, User and Dir of spec against what is in root, the task's root on the host with its mounts made, and fills
// in what they imply: UID, GID, Groups, an absolute Command, Dir, and PATH, HOME, USER, LOGNAME and SHELL where Env lacks them.
// Symbolic links are followed as the jail will see them, and never out of root. An error is one sentence for the job's author.
func Resolve(root string, spec *Spec) error {
	image, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer image.Close()
	return resolve(&tree{Root: image}, spec)
}

// Foresee is Resolve for a root that is yet to be cloned from image and that will have mounts at the absolute paths of mounted. It
// returns false, and leaves spec as it was, when that depends on what is mounted.
func Foresee(image string, mounted []string, spec *Spec) (bool, error) {
	root, err := os.OpenRoot(image)
	if err != nil {
		return false, err
	}
	defer root.Close()
	t, resolved := &tree{Root: root, mounted: mounted}, *spec
	err = resolve(t, &resolved)
	if t.unknown {
		return false, nil
	}
	if err == nil {
		*spec = resolved
	}
	return true, err
}

// tree is a root file system to look up things in.
type tree struct {
	*os.Root
	mounted []string // absolute paths of which it does not know what will be there
	unknown bool     // something to look up was at such a path
}

func (t *tree) hides(at string) bool {
	return slices.ContainsFunc(t.mounted, func(m string) bool { return "/"+at == m || strings.HasPrefix("/"+at, m+"/") })
}

func resolve(image *tree, spec *Spec) error {
	if spec.User == "" {
		spec.User = "root"
	}
	who, groups, err := lookupUser(image, spec.User)
	if err != nil {
		return err
	}
	spec.UID, spec.GID, spec.Groups = who.uid, who.gid, groups
	spec.Env = withDefaults(spec.Env, who)
	if err := resolveDir(image, spec); err != nil {
		return err
	}
	return resolveCommand(image, spec)
}

func withDefaults(env []string, who account) []string {
	env = slices.Clone(env)
	for _, d := range [][2]string{
		{"PATH", defaultPath}, {"HOME", cmp.Or(who.home, "/")}, {"USER", who.name}, {"LOGNAME", who.name}, {"SHELL", cmp.Or(who.shell, "/bin/sh")},
	} {
		if _, ok := lookupEnv(env, d[0]); !ok {
			env = append(env, d[0]+"="+d[1])
		}
	}
	return env
}

func lookupEnv(env []string, key string) (string, bool) {
	for _, e := range slices.Backward(env) {
		if k, v, _ := strings.Cut(e, "="); k == key {
			return v, true
		}
	}
	return "", false
}

func resolveDir(image *tree, spec *Spec) error {
	if spec.Dir == "" {
		spec.Dir = "/"
	}
	if !path.IsAbs(spec.Dir) {
		return fmt.Errorf("working directory %s is not an absolute path", spec.Dir)
	}
	switch _, info, err := image.follow(spec.Dir); {
	case err != nil:
		return fmt.Errorf("working directory %s is not in the image", spec.Dir)
	case !info.IsDir():
		return fmt.Errorf("working directory %s is not a directory", spec.Dir)
	}
	return nil
}

func resolveCommand(image *tree, spec *Spec) error {
	if spec.Command == "" {
		return fmt.Errorf("no command: neither the job nor the image names one")
	}
	if !strings.Contains(spec.Command, "/") {
		return searchCommand(image, spec)
	}
	full := spec.Command
	if !path.IsAbs(full) {
		full = path.Join(spec.Dir, full)
	}
	switch _, info, err := image.follow(full); {
	case err != nil:
		return fmt.Errorf("command %s is not in the image", spec.Command)
	case !executable(info):
		return fmt.Errorf("command %s is not executable", spec.Command)
	}
	spec.Command = full
	return nil
}

// searchCommand looks in the directories of PATH as execvp(3) does.
func searchCommand(image *tree, spec *Spec) error {
	search, _ := lookupEnv(spec.Env, "PATH")
	for _, dir := range strings.Split(search, ":") {
		full := path.Join(spec.Dir, dir, spec.Command)
		if path.IsAbs(dir) {
			full = path.Join(dir, spec.Command)
		}
		if _, info, err := image.follow(full); err == nil && executable(info) {
			spec.Command = full
			return nil
		}
	}
	return fmt.Errorf("command %s is not in the image, in none of %s", spec.Command, search)
}

func executable(info fs.FileInfo) bool { return info.Mode().IsRegular() && info.Mode()&0o111 != 0 }

// maxLinks is what Linux follows in one path; FreeBSD follows 32.
const maxLinks = 40

// follow resolves every symbolic link of name as a process in the jail would see it: an absolute one starts again at the root, and
// ".." stays below it. os.Root by itself refuses both. The result has no links left when it is opened, or os.Root catches it.
func (t *tree) follow(name string) (string, fs.FileInfo, error) {
	todo := strings.Split(name, "/")
	at := "."
	info, err := t.Lstat(at)
	for links := 0; len(todo) > 0 && err == nil; {
		element := todo[0]
		todo = todo[1:]
		if element == "" || element == "." {
			continue
		}
		if !info.IsDir() {
			return "", nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
		}
		if element == ".." {
			at = path.Dir(at)
			info, err = t.Lstat(at)
			continue
		}
		next := path.Join(at, element)
		if t.hides(next) {
			t.unknown = true
			return "", nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ENOENT}
		}
		nextInfo, lerr := t.Lstat(next)
		if lerr != nil {
			return "", nil, lerr
		}
		if nextInfo.Mode()&fs.ModeSymlink == 0 {
			at, info = next, nextInfo
			continue
		}
		if links++; links > maxLinks {
			return "", nil, &fs.PathError{Op: "open", Path: name, Err: syscall.ELOOP}
		}
		target, rerr := t.Readlink(next)
		if rerr != nil {
			return "", nil, rerr
		}
		if path.IsAbs(target) {
			at = "."
			info, err = t.Lstat(at)
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, info, err
}
