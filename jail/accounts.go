package jail

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// account is a line of passwd(5), as far as a process needs it.
type account struct {
	name, home, shell string
	uid, gid          uint32
}

// lookupUser finds NAME|UID[:GROUP|GID] in the image's own files. An unknown number is a user all the same, a name is not.
func lookupUser(image *tree, user string) (account, []uint32, error) {
	name, group, withGroup := strings.Cut(user, ":")
	who, err := lookupAccount(image, name)
	if err != nil {
		return account{}, nil, err
	}
	groups, err := readLines(image, "etc/group")
	if err != nil {
		return account{}, nil, err
	}
	if withGroup {
		if who.gid, err = lookupGroup(groups, group); err != nil {
			return account{}, nil, err
		}
		return who, []uint32{who.gid}, nil
	}
	return who, append([]uint32{who.gid}, memberships(groups, who)...), nil
}

func lookupAccount(image *tree, name string) (account, error) {
	lines, err := readLines(image, "etc/passwd")
	if err != nil {
		return account{}, err
	}
	number, isNumber := parseID(name)
	for _, line := range lines {
		// name:password:uid:gid:gecos:home:shell
		f := strings.Split(line, ":")
		if len(f) < 7 {
			continue
		}
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		if ok1 && ok2 && (f[0] == name || isNumber && uid == number) {
			return account{name: f[0], home: f[5], shell: f[6], uid: uid, gid: gid}, nil
		}
	}
	switch {
	case name == "root":
		return account{name: name, home: "/root"}, nil // an image may have no accounts at all
	case isNumber:
		return account{name: name, home: "/", uid: number}, nil
	}
	return account{}, fmt.Errorf("user %s is not in the image's /etc/passwd", name)
}

func lookupGroup(lines []string, name string) (uint32, error) {
	number, isNumber := parseID(name)
	for _, line := range lines {
		// name:password:gid:members
		f := strings.Split(line, ":")
		if len(f) < 3 || f[0] != name {
			continue
		}
		if gid, ok := parseID(f[2]); ok {
			return gid, nil
		}
	}
	if isNumber {
		return number, nil
	}
	return 0, fmt.Errorf("group %s is not in the image's /etc/group", name)
}

// memberships are the groups that list who as a member, other than its own.
func memberships(lines []string, who account) []uint32 {
	var groups []uint32
	for _, line := range lines {
		f := strings.Split(line, ":")
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), who.name) {
			continue
		}
		if gid, ok := parseID(f[2]); ok && gid != who.gid && !slices.Contains(groups, gid) {
			groups = append(groups, gid)
		}
	}
	return groups
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && uint32(n) != ^uint32(0) // -1 means "unchanged" to setuid's family
}

// readLines returns none for a file that the image lacks.
func readLines(image *tree, path string) ([]string, error) {
	real, info, err := image.follow(path)
	if os.IsNotExist(err) || err == nil && !info.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image's /%s: %w", path, err)
	}
	// A task that runs already may have put a FIFO or an endless file here since.
	f, err := image.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("image's /%s: %w", path, err)
	}
	defer f.Close()
	var lines []string
	for s := bufio.NewScanner(io.LimitReader(f, 1<<20)); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return lines, nil
}
