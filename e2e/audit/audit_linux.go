package audit

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

var host = map[string]func() ([]string, error){
	"mount":             mounts,
	"firewall rule":     firewall,
	"network namespace": func() ([]string, error) { return names("/run/netns") },
	"cgroup":            cgroups,
}

// mounts returns mount points with type and source.
func mounts() ([]string, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	var found []string
	for scanner := bufio.NewScanner(bytes.NewReader(text)); scanner.Scan(); {
		if f := strings.Fields(scanner.Text()); len(f) > 2 {
			found = append(found, fmt.Sprintf("%s (%s of %s)", f[1], f[2], f[0]))
		}
	}
	return found, err
}

var counter = regexp.MustCompile(`counter packets \d+ bytes \d+`)

func firewall() ([]string, error) {
	rules, err := command("nft", "list", "ruleset")
	for i, r := range rules {
		rules[i] = counter.ReplaceAllString(r, "counter")
	}
	return rules, err
}

func cgroups() ([]string, error) {
	var found []string
	const root = "/sys/fs/cgroup"
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			found = append(found, strings.TrimPrefix(path, root))
		}
		return nil // a cgroup may go while we look
	})
	return found, err
}

// Processes are the command lines on this host, each after its process ID, without this process, process 1 and kernel threads.
func Processes() ([]string, error) {
	entries, err := os.ReadDir("/proc")
	var found []string
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		found = append(found, fmt.Sprintf("%d %s", pid, bytes.TrimSpace(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))))
	}
	return found, err
}

var inode = regexp.MustCompile(`:\[\d+\]$`)

// OpenFiles are what a process has open, without what tells one pipe or socket from another.
func OpenFiles(pid int) ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	var found []string
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil {
			found = append(found, inode.ReplaceAllString(to, ""))
		}
	}
	return found, err
}
