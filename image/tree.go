package image

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// hashTree adds to h what makes a folder's files, or one file, what they are: names, modes, owners, links and contents, not times.
// A file with many names is read once: FreeBSD's /rescue is 150 names of 12 MB.
func hashTree(h hash.Hash, root *os.Root, from string) error {
	first := map[[2]uint64]string{}
	return fs.WalkDir(root.FS(), from, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if name == from { // which storage.Copy follows
			info, err = root.Stat(name)
		}
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(h, "%q %v %d %d %d\n", name, info.Mode(), stat.Uid, stat.Gid, info.Size()*regular(info))
		switch info.Mode().Type() {
		case 0:
			key := [2]uint64{stat.Dev, stat.Ino}
			if to, isLink := first[key]; isLink {
				fmt.Fprintf(h, "%q\n", to)
				return nil
			}
			if stat.Nlink > 1 {
				first[key] = name
			}
			return hashFile(h, root, name)
		case fs.ModeSymlink:
			target, err := root.Readlink(name)
			fmt.Fprintf(h, "%q\n", target)
			return err
		}
		return nil
	})
}

// regular is 0 where a size says nothing of the content.
func regular(info fs.FileInfo) int64 {
	if info.Mode().IsRegular() {
		return 1
	}
	return 0
}

func hashFile(h hash.Hash, root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(h, f)
	return err
}

// hashOf starts a hash with what goes before.
func hashOf(parts ...string) hash.Hash {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%q\n", p)
	}
	return h
}
