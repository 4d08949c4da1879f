package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseRecipe(t *testing.T) {
	recipe, err := ParseRecipe(strings.NewReader(`# A comment
base web:1

copy a b \
  # in the middle of a line that goes on
  /usr/local/
run echo "a  b" | cat; exit 0
env A=b 'C=d e'
cmd ["/bin/sh", "-c", "a; b"]
user	www
`), "/here")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range recipe.instructions {
		got = append(got, fmt.Sprintf("%d %s %q", i.line, i.word, i.args))
	}
	want := []string{`2 base ["web:1"]`, `4 copy ["a" "b" "/usr/local/"]`, `7 run ["echo \"a  b\" | cat; exit 0"]`, `8 env ["A=b" "C=d e"]`, `9 cmd ["/bin/sh" "-c" "a; b"]`, `10 user ["www"]`}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for text, sentence := range map[string]string{
		"form web:1":         `line 1 of the recipe: unknown instruction "form"; there are base, cmd, copy, env, ports, run, user, workdir`,
		"\ncopy a":           `line 2 of the recipe: copy takes at least 2 arguments`,
		"run":                `line 1 of the recipe: run takes at least 1 arguments`,
		"user a b":           `line 1 of the recipe: user takes at most 1 arguments`,
		"copy a b\nbase c":   `line 2 of the recipe: base comes first or not at all`,
		`cmd "a`:             `line 1 of the recipe: "a cannot be split into words; quote it, or write ["/bin/sh", "-c", "…"]`,
		"cmd a | b":          `line 1 of the recipe: a | b cannot be split into words; quote it, or write ["/bin/sh", "-c", "…"]`,
		`cmd ["a", 1]`:       `line 1 of the recipe: ["a", 1] is no JSON list of strings: json: cannot unmarshal number into Go value of type string`,
		"user a\nenv A=b \\": `line 2 of the recipe goes on behind its end`,
	} {
		if _, err := ParseRecipe(strings.NewReader(text), "/here"); err == nil || err.Error() != sentence {
			t.Errorf("%q: %v, want %s", text, err, sentence)
		}
	}
}

// cook builds a recipe in a folder with the files given.
func cook(t *testing.T, h *host, name, recipe string, files map[string]string, opt BuildOptions) (Image, string, error) {
	t.Helper()
	dir := t.TempDir()
	for file, text := range files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte(text))
		if err := os.Chown(path, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := ParseRecipe(strings.NewReader(recipe), dir)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	opt.Output = &out
	img, err := h.BuildRecipe(t.Context(), ref, parsed, opt)
	return img, out.String(), err
}

func TestRecipe(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		h := newHost(t, kind, Options{})
		tree := makeTree(t, 10<<10)
		base, err := h.Build(t.Context(), Reference{Name: "base", Tag: "1"}, tree, BuildOptions{OSRelease: "12.2-RELEASE", Defaults: Defaults{Env: map[string]string{"A": "1", "B": "1"}}})
		if err != nil {
			t.Fatal(err)
		}
		var ran []Run
		run := func(_ context.Context, r Run) error {
			ran = append(ran, r)
			if strings.HasPrefix(r.Args[2], "fail") {
				write(t, r.Root+"/half", nil)
				return fmt.Errorf("it exits with 3")
			}
			return os.WriteFile(r.Root+"/ran", []byte(r.Args[2]), 0o600)
		}
		const text = "base base:1\nenv B=2\nuser www\ncopy site index /usr/www\nrun make me\nworkdir /usr/www\nports 80\ncmd /bin/tool -x\n"
		files := map[string]string{"site/page": "page", "site/sub/other": "other", "index": "index"}
		img, out, err := cook(t, h, "web:1", text, files, BuildOptions{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out, "run make me\n") {
			t.Errorf("it says %q", out)
		}
		for file, want := range map[string]string{"usr/www/page": "page", "usr/www/sub/other": "other", "usr/www/index": "index", "etc/motd": "hello\n", "ran": "make me"} {
			path := filepath.Join(h.root(t, img), file)
			if got := string(read(t, path)); got != want {
				t.Errorf("%s is %q", file, got)
			}
			if info, err := os.Stat(path); err != nil || file != "etc/motd" && (stat(info).Uid != 0 || stat(info).Gid != 0) {
				t.Errorf("%s: %v, %v", file, info, err)
			}
		}
		d := img.Manifest.Defaults
		if d.Env["A"] != "1" || d.Env["B"] != "2" || d.User != "www" || d.Workdir != "/usr/www" || d.Command != "/bin/tool" || !slices.Equal(d.Ports, []string{"80"}) || img.Manifest.OSRelease != "12.2-RELEASE" {
			t.Errorf("the manifest is %+v", img.Manifest)
		}
		if len(ran) != 1 || ran[0].User != "www" || ran[0].Dir != "/" || !slices.Contains(ran[0].Env, "B=2") || ran[0].HostNetwork {
			t.Errorf("ran %+v", ran)
		}

		// What is the same is not done again.
		before := h.state(t)
		again, _, err := cook(t, h, "web:1", text, files, BuildOptions{Run: run})
		if err != nil || again.ID != img.ID || len(ran) != 1 || h.state(t) != before {
			t.Errorf("again: %s and not %s, %v, ran %d", again.ID, img.ID, err, len(ran))
		}
		again, _, err = cook(t, h, "web:2", strings.Replace(text, "cmd /bin/tool", "cmd /bin/su", 1), files, BuildOptions{Run: run})
		if err != nil || again.ID != img.ID || len(ran) != 1 {
			t.Errorf("with another cmd: %s and not %s, %v, ran %d", again.ID, img.ID, err, len(ran))
		}
		files["index"] = "new"
		changed, _, err := cook(t, h, "web:1", text, files, BuildOptions{Run: run})
		if err != nil || changed.ID == img.ID || len(ran) != 2 || string(read(t, h.root(t, changed)+"/usr/www/index")) != "new" {
			t.Errorf("with another file: %s, %v, ran %d", changed.ID, err, len(ran))
		}
		if fresh, _, err := cook(t, h, "web:3", text, files, BuildOptions{Run: run, NoCache: true}); err != nil || fresh.ID == changed.ID || len(ran) != 3 {
			t.Errorf("without the cache: %s, %v, ran %d", fresh.ID, err, len(ran))
		}
		if got := string(read(t, h.root(t, base)+"/etc/motd")); got != "hello\n" || isDir(h.root(t, base)+"/usr") {
			t.Error("the base has changed")
		}

		before = h.state(t)
		for recipe, sentence := range map[string]string{
			"base none:1":                         "image bad:1: line 1 of the recipe: base: image none:1: it is not in the store; see what is with: image list",
			"base index":                          "image bad:1: line 1 of the recipe: base: image index: it is not in the store; see what is with: image list; for the file, write ./index",
			"base ./none":                         "no such file",
			"base base:1\ncopy none /":            "image bad:1: line 2 of the recipe: copy: ",
			"base base:1\ncopy ../x /":            "image bad:1: line 2 of the recipe: copy: ",
			"base base:1\nrun fail":               "image bad:1: line 2 of the recipe: run: it exits with 3",
			"run make":                            "image bad:1: line 1 of the recipe: run: there is nothing to run in; begin the recipe with base or copy",
			"user www":                            "image bad:1: the recipe makes no files; begin it with base or copy",
			"base base:1\nports x":                `image bad:1: line 2 of the recipe: ports: "x" is no port; write 80 or 53/udp`,
			"base base:1\nworkdir x":              `image bad:1: line 2 of the recipe: workdir: workdir "x" is not absolute`,
			"base base:1\nenv x":                  `image bad:1: line 2 of the recipe: env: env "x" has no =; write NAME=VALUE`,
			"base base:1\ncopy index /etc/motd/x": "image bad:1: line 2 of the recipe: copy: ",
		} {
			_, _, err := cook(t, h, "bad:1", recipe, files, BuildOptions{Run: run})
			h.refused(t, err, sentence, before, infix)
		}
	})
}

func TestRecipeCopyIntoFolder(t *testing.T) {
	h := newHost(t, "tar", Options{})
	files := map[string]string{"a": "a", "b": "b", "d/c": "c"}
	img, _, err := cook(t, h, "web:1", "copy a b /new\ncopy a /etc/\ncopy d b /deep/er/\ncopy a /file\ncopy a b /new/", files, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"new/a": "a", "new/b": "b", "etc/a": "a", "deep/er/c": "c", "deep/er/b": "b", "file": "a"} {
		if got := string(read(t, filepath.Join(h.root(t, img), file))); got != want {
			t.Errorf("%s is %q", file, got)
		}
	}
	for recipe, sentence := range map[string]string{
		"copy a /file\ncopy a b /file": "line 2 of the recipe: copy: /file is a file in the image",
		"copy a /file\ncopy b /file/":  "line 2 of the recipe: copy: /file/ is a file in the image",
	} {
		if _, _, err := cook(t, h, "bad:1", recipe, files, BuildOptions{}); err == nil || !strings.Contains(err.Error(), sentence) {
			t.Errorf("%q: %v", recipe, err)
		}
	}
}

// TestRecipeCopyOverFolders copies over folders of the image, of which one is a symlink's target and one another user's.
func TestRecipeCopyOverFolders(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		h, tree := newHost(t, kind, Options{}), t.TempDir()
		if err := errors.Join(os.MkdirAll(tree+"/usr/bin", 0o755), os.Symlink("usr/bin", tree+"/bin"), os.MkdirAll(tree+"/home/www", 0o755), os.Chown(tree+"/home/www", 80, 80)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Build(t.Context(), Reference{Name: "base", Tag: "1"}, tree, BuildOptions{}); err != nil {
			t.Fatal(err)
		}
		img, _, err := cook(t, h, "web:1", "base base:1\ncopy overlay /", map[string]string{"overlay/bin/tool": "tool", "overlay/home/www/page": "page"}, BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{"usr/bin": "drwxr-xr-x 0", "usr/bin/tool": "-rw-r--r-- 0", "home/www": "drwxr-xr-x 80", "home/www/page": "-rw-r--r-- 0"} {
			info, err := os.Lstat(filepath.Join(h.root(t, img), file))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(info.Mode(), " ", stat(info).Uid); got != want {
				t.Errorf("%s: %s, want %s", file, got, want)
			}
		}
	})
}

// TestRecipeCopySymlink copies what a symlink in the recipe's folder leads to, and again when that has changed.
func TestRecipeCopySymlink(t *testing.T) {
	h, dir := newHost(t, "tar", Options{}), t.TempDir()
	if err := os.Symlink("v1", dir+"/current"); err != nil {
		t.Fatal(err)
	}
	recipe, err := ParseRecipe(strings.NewReader("copy current /current"), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"old", "new"} {
		write(t, dir+"/v1", []byte(text))
		img, err := h.BuildRecipe(t.Context(), Reference{Name: "web", Tag: "1"}, recipe, BuildOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := string(read(t, h.root(t, img)+"/current")); got != text {
			t.Errorf("the image has %q, want %q", got, text)
		}
	}
}
