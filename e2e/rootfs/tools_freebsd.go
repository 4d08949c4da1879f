package rootfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tools are those of /rescue: one program under many names, linked without libraries.
func tools(root string) error {
	if err := accounts(filepath.Join(root, "etc")); err != nil {
		return err
	}
	bin := filepath.Join(root, "bin")
	entries, err := os.ReadDir("/rescue")
	if err != nil {
		return err
	}
	if err := install("/rescue/sh", filepath.Join(bin, "sh")); err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Link(filepath.Join(bin, "sh"), filepath.Join(bin, e.Name())); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

// accounts makes the databases that FreeBSD's programs read instead of passwd(5).
func accounts(etc string) error {
	passwd, err := os.ReadFile(filepath.Join(etc, "passwd"))
	if err != nil {
		return err
	}
	var master strings.Builder
	for line := range strings.Lines(string(passwd)) {
		f := strings.SplitN(line, ":", 5)
		fmt.Fprintf(&master, "%s::0:0:%s", strings.Join(f[:4], ":"), f[4]) // no class, no expiry
	}
	file := filepath.Join(etc, "master.passwd")
	if err := os.WriteFile(file, []byte(master.String()), 0o600); err != nil {
		return err
	}
	if out, err := exec.Command("pwd_mkdb", "-p", "-d", etc, file).CombinedOutput(); err != nil {
		return fmt.Errorf("pwd_mkdb: %w: %s", err, out)
	}
	return nil
}
