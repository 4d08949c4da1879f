package rootfs

import (
	"os"
	"path/filepath"
)

// tools are those of /rescue: one program under many names, linked without libraries.
func tools(bin string) error {
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
