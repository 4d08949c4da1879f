// Command zfs makes the command line of zfs-fuse 0.7.0, which is from 2010, answer as today's zfs and zpool do, so that a Linux machine
// without ZFS in its kernel can test on a real ZFS. Installed under the names zfs and zpool in a folder ahead in PATH, it runs the commands of
// those names in the folder that the variable ZFS_FUSE_COMMANDS names, else the next ones that PATH has. It translates what the project and go-zfs say, not all that today's commands know.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	name := filepath.Base(os.Args[0])
	commands, ok := map[string]map[string]func([]string) error{"zfs": zfsCommands, "zpool": zpoolCommands}[name]
	if !ok {
		fail(fmt.Errorf("%s: install this program under the names zfs and zpool", name))
	}
	path, err := next(name)
	if err != nil {
		fail(err)
	}
	real = path
	args := os.Args[1:]
	if len(args) > 0 {
		if command, ok := commands[args[0]]; ok {
			fail(command(args[1:]))
			return
		}
		if changes[name+" "+args[0]] {
			fail(change(args...))
			return
		}
	}
	fail(become(args...))
}

// changes are the commands that change a pool and that need no translation.
var changes = map[string]bool{
	"zfs promote": true, "zfs rollback": true, "zfs inherit": true, "zfs upgrade": true, "zfs mount": true, "zfs unmount": true, "zfs umount": true,
	"zfs hold": true, "zfs release": true, "zfs allow": true, "zfs unallow": true,
	"zpool add": true, "zpool export": true, "zpool import": true, "zpool remove": true, "zpool replace": true, "zpool set": true,
}

// real is the path of the command behind this one.
var real string

// next finds the command of that name that is behind this program.
func next(name string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin")
	if dir := os.Getenv("ZFS_FUSE_COMMANDS"); dir != "" {
		dirs = []string{dir}
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 && !os.SameFile(info, self) {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found; zfs-fuse is not installed", name)
}

// fail ends the program as err says: with the real command's own words and status, where they are all there is to say.
func fail(err error) {
	if err == nil {
		return
	}
	var failed *failure
	if errors.As(err, &failed) {
		os.Stderr.WriteString(failed.stderr)
		os.Exit(failed.status)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// become replaces this process by the real command.
func become(args ...string) error {
	return syscall.Exec(real, append([]string{real}, args...), os.Environ())
}

// options are a command's flags as getopt(3) takes them. Those in withValue have one.
type options struct {
	flags  string
	values map[byte][]string
	rest   []string
}

func parse(args []string, withValue string) options {
	o := options{values: map[byte][]string{}}
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' {
		flags := args[0][1:]
		args = args[1:]
		if flags == "-" {
			break
		}
		for len(flags) > 0 {
			f := flags[0]
			flags = flags[1:]
			if !strings.ContainsRune(withValue, rune(f)) {
				o.flags += string(f)
				continue
			}
			if flags == "" && len(args) > 0 {
				flags, args = args[0], args[1:]
			}
			o.values[f] = append(o.values[f], flags)
			flags = ""
		}
	}
	o.rest = args
	return o
}

func (o options) has(flag byte) bool { return strings.IndexByte(o.flags, flag) >= 0 }

// args spells the options again, of the flags without a value only those in known.
func (o options) args(known string) []string {
	var args []string
	for _, f := range o.flags {
		if strings.ContainsRune(known, f) {
			args = append(args, "-"+string(f))
		}
	}
	for f, values := range o.values {
		for _, v := range values {
			args = append(args, "-"+string(f), v)
		}
	}
	return append(args, o.rest...)
}
