// Package rootfs makes the root file system of the example image: a shell with its tools, and examples/httpd with a page to serve.
package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Page is what the example image serves at "/".
const Page = "<!doctype html>\n<title>nomad-driver-jail</title>\n<h1>Hello from a jail</h1>\n"

var files = map[string]string{
	"etc/passwd":               "root:*:0:0:root:/root:/bin/sh\nwww:*:80:80:web server:/usr/local/www:/bin/sh\nnobody:*:65534:65534:nobody:/nonexistent:/bin/false\n",
	"etc/group":                "wheel:*:0:root\nwww:*:80:\ntty:*:5:\nnobody:*:65534:\n",
	"etc/motd":                 "This is the example image.\n",
	"usr/local/www/index.html": Page,
}

// Folders where the image's users may write.
var open = []string{"tmp", "var/tmp"}

// links lead nowhere good: what follows them is to be refused.
var links = map[string]string{
	"escape-relative": "../../../../../../../..",
	"escape-absolute": "/etc",
}

// Make fills dir, which must exist, with httpd as the web server's binary, or with none.
func Make(dir, httpd string) error {
	for _, folder := range []string{"bin", "etc", "root", "usr/local/bin", "usr/local/etc/nginx", "var/run", "dev", "proc"} {
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			return err
		}
	}
	for _, folder := range open {
		path := filepath.Join(dir, folder)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, 0o1777)); err != nil {
			return err
		}
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"httpd", "nginx"} {
		if httpd == "" {
			break
		}
		if err := install(httpd, filepath.Join(dir, "usr/local/bin", name)); err != nil {
			return fmt.Errorf("web server: %w", err)
		}
	}
	return tools(dir)
}

func install(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
