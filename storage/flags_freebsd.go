package storage

import (
	"bytes"
	"fmt"
	"os/exec"
)

// clearFlags takes chflags(2)'s flags from all in a tree, of symlinks themselves.
func clearFlags(dir string) error {
	if out, err := exec.Command("/bin/chflags", "-RhP", "0", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("chflags %s: %w: %s", dir, err, bytes.TrimSpace(out))
	}
	return nil
}
