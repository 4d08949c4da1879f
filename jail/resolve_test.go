package jail

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// image makes a tree: names that end in "/" are directories, "->" makes a symbolic link, "*" an executable file.
func image(t *testing.T, entries map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range entries {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case text == "/":
			err = os.MkdirAll(path, 0o755)
		case len(text) > 2 && text[:2] == "->":
			err = os.Symlink(text[2:], path)
		case text == "*":
			err = os.WriteFile(path, nil, 0o755)
		default:
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func testImage(t *testing.T) string {
	return image(t, map[string]string{
		"etc/passwd":         "root:*:0:0:Charlie &:/root:/bin/csh\nwww:*:80:80:WWW:/nonexistent:/usr/sbin/nologin\nno line\n",
		"etc/group":          "wheel:*:0:root\nwww:*:80:\nlogs:*:90:root,www\ntls:*:91:www\n",
		"bin/busybox":        "*",
		"bin/sh":             "->/bin/busybox",
		"bin/rel":            "->../bin/busybox",
		"bin/out":            "->../../../../../../etc/hostname",
		"bin/loop":           "->/bin/loop",
		"bin/dir":            "/",
		"usr/local/bin/app":  "*",
		"usr/local/bin/text": "just text",
		"srv/www":            "/",
		"srv/link":           "->/srv/www",
	})
}

func TestResolve(t *testing.T) {
	cases := map[string]struct {
		spec, want Spec // want: command, dir, uid, gid, groups
		err        string
	}{
		"defaults": {
			spec: Spec{Command: "/bin/sh"},
			want: Spec{Command: "/bin/sh", Dir: "/", Groups: []uint32{0, 90}},
		},
		"in PATH": {
			spec: Spec{Command: "app", Dir: "/srv/www"},
			want: Spec{Command: "/usr/local/bin/app", Dir: "/srv/www", Groups: []uint32{0, 90}},
		},
		"in the task's PATH": {
			spec: Spec{Command: "busybox", Env: []string{"PATH=/nowhere:/bin"}},
			want: Spec{Command: "/bin/busybox", Dir: "/", Groups: []uint32{0, 90}},
		},
		"relative to the working directory": {
			spec: Spec{Command: "./app", Dir: "/usr/local/bin"},
			want: Spec{Command: "/usr/local/bin/app", Dir: "/usr/local/bin", Groups: []uint32{0, 90}},
		},
		"a user with groups": {
			spec: Spec{Command: "/bin/rel", User: "www", Dir: "/srv/link"},
			want: Spec{Command: "/bin/rel", Dir: "/srv/link", UID: 80, GID: 80, Groups: []uint32{80, 90, 91}},
		},
		"a user and a group": {
			spec: Spec{Command: "/bin/sh", User: "www:logs"},
			want: Spec{Command: "/bin/sh", Dir: "/", UID: 80, GID: 90, Groups: []uint32{90}},
		},
		"numbers": {
			spec: Spec{Command: "/bin/sh", User: "1234:5678"},
			want: Spec{Command: "/bin/sh", Dir: "/", UID: 1234, GID: 5678, Groups: []uint32{5678}},
		},
		"a number with a name": {
			spec: Spec{Command: "/bin/sh", User: "80"},
			want: Spec{Command: "/bin/sh", Dir: "/", UID: 80, GID: 80, Groups: []uint32{80, 90, 91}},
		},
		"no command":          {spec: Spec{}, err: "no command: neither the job nor the image names one"},
		"missing":             {spec: Spec{Command: "/bin/nosuch"}, err: "command /bin/nosuch is not in the image"},
		"missing in PATH":     {spec: Spec{Command: "nosuch", Env: []string{"PATH=/bin"}}, err: "command nosuch is not in the image, in none of /bin"},
		"not executable":      {spec: Spec{Command: "/etc/passwd"}, err: "command /etc/passwd is not executable"},
		"a directory":         {spec: Spec{Command: "/bin/dir"}, err: "command /bin/dir is not executable"},
		"a link out":          {spec: Spec{Command: "/bin/out"}, err: "command /bin/out is not in the image"},
		"a path out":          {spec: Spec{Command: "/../../../../bin/true"}, err: "command /../../../../bin/true is not in the image"},
		"a loop":              {spec: Spec{Command: "/bin/loop"}, err: "command /bin/loop is not in the image"},
		"below a file":        {spec: Spec{Command: "/etc/passwd/x"}, err: "command /etc/passwd/x is not in the image"},
		"unknown user":        {spec: Spec{Command: "/bin/sh", User: "nobody2"}, err: "user nobody2 is not in the image's /etc/passwd"},
		"unknown group":       {spec: Spec{Command: "/bin/sh", User: "www:staff"}, err: "group staff is not in the image's /etc/group"},
		"minus one":           {spec: Spec{Command: "/bin/sh", User: "4294967295"}, err: "user 4294967295 is not in the image's /etc/passwd"},
		"no such directory":   {spec: Spec{Command: "/bin/sh", Dir: "/x"}, err: "working directory /x is not in the image"},
		"directory is a file": {spec: Spec{Command: "/bin/sh", Dir: "/etc/passwd"}, err: "working directory /etc/passwd is not a directory"},
		"relative directory":  {spec: Spec{Command: "/bin/sh", Dir: "srv"}, err: "working directory srv is not an absolute path"},
	}
	root := testImage(t)
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := c.spec
			err := Resolve(root, &got)
			if c.err != "" {
				if err == nil || err.Error() != c.err {
					t.Errorf("error %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Command != c.want.Command || got.Dir != c.want.Dir || got.UID != c.want.UID || got.GID != c.want.GID || !slices.Equal(got.Groups, c.want.Groups) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestResolveEnvironment(t *testing.T) {
	spec := Spec{Command: "/bin/sh", User: "www", Env: []string{"HOME=/srv", "A=b"}}
	if err := Resolve(testImage(t), &spec); err != nil {
		t.Fatal(err)
	}
	want := []string{"HOME=/srv", "A=b", "PATH=" + defaultPath, "USER=www", "LOGNAME=www", "SHELL=/usr/sbin/nologin"}
	if !slices.Equal(spec.Env, want) {
		t.Errorf("got %q, want %q", spec.Env, want)
	}
}

// An image need not have accounts, but then only root and numbers are users.
func TestResolveWithoutAccounts(t *testing.T) {
	root := image(t, map[string]string{"app": "*"})
	for _, user := range []string{"", "root", "1000"} {
		if err := Resolve(root, &Spec{Command: "/app", User: user}); err != nil {
			t.Errorf("user %q: %v", user, err)
		}
	}
	if err := Resolve(root, &Spec{Command: "/app", User: "www"}); err == nil {
		t.Error("user www is known")
	}
}

// What is mounted over the image may hold what the image lacks.
func TestForesee(t *testing.T) {
	root := image(t, map[string]string{
		"etc/passwd": "root:*:0:0::/root:/bin/sh\n", "bin/sh": "*", "bin/data": "no program",
		"opt/linked": "->/local/app", "opt/folder": "->../local", "local/old": "*", "localhost": "/",
	})
	cases := map[string]struct {
		spec  Spec
		known bool
		err   string
	}{
		"there":                   {spec: Spec{Command: "/bin/sh"}, known: true},
		"in PATH":                 {spec: Spec{Command: "sh"}, known: true},
		"missing":                 {spec: Spec{Command: "/bin/app"}, known: true, err: "command /bin/app is not in the image"},
		"not executable":          {spec: Spec{Command: "/bin/data"}, known: true, err: "command /bin/data is not executable"},
		"unknown user":            {spec: Spec{Command: "/bin/sh", User: "www"}, known: true, err: "user www is not in the image's /etc/passwd"},
		"missing, almost mounted": {spec: Spec{Command: "/localhost/app"}, known: true, err: "command /localhost/app is not in the image"},
		"mounted":                 {spec: Spec{Command: "/local/app"}},
		"covered":                 {spec: Spec{Command: "/local/old"}},
		"linked to what is":       {spec: Spec{Command: "/opt/linked"}},
		"below a linked folder":   {spec: Spec{Command: "/opt/folder/app"}},
		"in a mounted folder":     {spec: Spec{Command: "./app", Dir: "/local"}},
		"PATH has a mounted one":  {spec: Spec{Command: "app", Env: []string{"PATH=/local/bin:/bin"}}},
		"PATH has it before":      {spec: Spec{Command: "sh", Env: []string{"PATH=/bin:/local/bin"}}, known: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := c.spec
			known, err := Foresee(root, []string{"/dev", "/local"}, &spec)
			if known != c.known || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("%v, %v; want %v, %q", known, err, c.known, c.err)
			}
			if resolved := spec.User != ""; resolved != (known && err == nil) && c.spec.User == "" {
				t.Errorf("spec %+v", spec)
			}
		})
	}
}
