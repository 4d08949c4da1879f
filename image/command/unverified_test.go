package command

import (
	"strings"
	"testing"
)

// TestUnverified pulls and verifies without keys, and with one.
func TestUnverified(t *testing.T) {
	published, keys := t.TempDir(), t.TempDir()+"/key"
	store := func() []string { return []string{"--directory", t.TempDir(), "--state-dir", t.TempDir()} }
	must(t, "sign", "--generate", keys)
	builder := store()
	must(t, append([]string{"build", "web:1", someTree(t)}, builder...)...)
	must(t, append([]string{"export", "--sign", keys + ".sec", "web:1", published}, builder...)...)
	url := "file://" + published + "/web:1"
	for _, command := range []string{"pull", "verify"} {
		for key, want := range map[string]int{"": 1, keys + ".pub": 0} {
			args := append([]string{command, url}, store()...)
			if key != "" {
				args = append(args, "--key", key)
			}
			_, problems, err := run(t, args...)
			if n := strings.Count(problems, "the image's origin is not verified: no keys are configured"); err != nil || n != want {
				t.Errorf("%s with the key %q: %v, said %d times, want %d: %s", command, key, err, n, want, problems)
			}
		}
	}
}
