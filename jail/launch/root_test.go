package launch

import (
	"os"
	"path/filepath"
	"testing"
)

func writeImageFiles(t testing.TB, root string) {
	t.Helper()
	for name, text := range map[string]string{
		"etc/passwd":    "root:x:0:0::/root:/bin/sh\nweb:x:1001:1002:Web:/home/web:/bin/sh\n",
		"etc/group":     "root:x:0:\nweb:x:1002:\nlogs:x:1003:web\n",
		"opt/badscript": "#!/bin/nosuch\n",
		"opt/garbage":   "\x00\x01\x02\x03 no program",
	} {
		must(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
