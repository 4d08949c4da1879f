package driver

import (
	"crypto/sha256"
	"encoding/hex"
)

// Name is the label on the host of the task that Nomad calls taskID: everything made for the task bears it. It is "nj" and
// twelve hexadecimal digits, which with one letter more is as long as an interface's name may be.
func Name(taskID string) string {
	sum := sha256.Sum256([]byte(taskID))
	return "nj" + hex.EncodeToString(sum[:6])
}
