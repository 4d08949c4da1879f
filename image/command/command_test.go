package command

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

func TestMain(m *testing.M) { pool.Main(m) }

// run is the program's command line in this process.
func run(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, problems bytes.Buffer
	err = execute(t.Context(), &out, &problems, args...)
	return out.String(), problems.String(), err
}

func execute(ctx context.Context, out, problems io.Writer, args ...string) error {
	root := &cobra.Command{Use: "nomad-driver-jail", SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(New(nil))
	root.SetOut(out)
	root.SetErr(problems)
	root.SetArgs(append([]string{"image"}, args...))
	return root.ExecuteContext(ctx)
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, problems, err := run(t, args...)
	if err != nil {
		t.Fatalf("image %s: %v\n%s%s", strings.Join(args, " "), err, out, problems)
	}
	return out
}

// serve runs `image serve` for the time of the test and returns its URL.
func serve(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- execute(ctx, w, io.Discard, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
		w.Close()
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(line)
	return fields[len(fields)-1]
}

func someTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for name, text := range map[string]string{"bin/web": "#!/bin/sh\n", "etc/motd": "hello\n", "var/data": strings.Repeat("data ", 100000)} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTour does what the operators' page tells.
func TestTour(t *testing.T) {
	for _, kind := range []string{"zfs", "directory"} {
		t.Run(kind, func(t *testing.T) {
			state := t.TempDir()
			published := filepath.Join(t.TempDir(), "published")
			builder, host := []string{"--state-dir", state + "/b"}, []string{"--state-dir", state + "/h"}
			if kind == "zfs" {
				builder = append(builder, "--dataset", pool.Dataset(t)+"/b")
				host = append(host, "--dataset", pool.Dataset(t)+"/h")
			} else {
				builder = append(builder, "--directory", t.TempDir())
				host = append(host, "--directory", t.TempDir())
			}
			with := func(store []string, args ...string) []string { return append(args, store...) }

			tree := someTree(t)
			must(t, with(builder, "build", "web:1.0", tree, "--cmd", "/bin/web -v", "--env", "A=b=c", "--port", "80,53/udp")...)
			out := must(t, with(builder, "export", "web:1.0", published)...)
			if !strings.HasPrefix(out, "Exported web:1.0: sha256:") {
				t.Errorf("export says %q", out)
			}
			url := serve(t, published)
			if _, problems, err := run(t, with(host, "pull", url+"/web:1.0")...); err != nil || !strings.Contains(problems, "Pulling web:1.0: ") {
				t.Errorf("pull: %v, says %q", err, problems)
			}
			var list []imageJSON
			if err := json.Unmarshal([]byte(must(t, with(host, "list", "--json")...)), &list); err != nil || len(list) != 1 {
				t.Fatalf("list: %+v, %v", list, err)
			}
			got := list[0]
			if got.Reference != url+"/web:1.0" || got.Manifest.Defaults.Command != "/bin/web" || got.Manifest.Defaults.Env["A"] != "b=c" || len(got.Manifest.Defaults.Ports) != 2 {
				t.Errorf("list: %+v", got)
			}
			if data, err := os.ReadFile(filepath.Join(got.Root, "etc/motd")); string(data) != "hello\n" {
				t.Errorf("motd: %q, %v", data, err)
			}
			if out := must(t, with(host, "list")...); !strings.Contains(out, got.ID[:12]) || !strings.Contains(out, url) {
				t.Errorf("list says %q", out)
			}
			if out := must(t, with(host, "inspect", got.ID[:8])...); !strings.Contains(out, `"digest": "sha256:`+got.ID) {
				t.Errorf("inspect says %q", out)
			}
			must(t, with(host, "rm", "web:1.0")...)
			if out := must(t, with(host, "list", "--json")...); strings.TrimSpace(out) != "[]" {
				t.Errorf("after rm: %s", out)
			}
			if _, _, err := run(t, with(host, "inspect", "web:1.0")...); err == nil || ExitCode(err) != 1 {
				t.Errorf("inspect after rm: %v", err)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args     []string
		sentence string
	}{
		{[]string{"list"}, "which store? Give --dataset POOL/NAME or --directory DIR"},
		{[]string{"list", "--dataset", "a/b", "--directory", "/c"}, "--dataset and --directory exclude each other"},
		{[]string{"pull", "web"}, `image "web": it has no tag`},
		{[]string{"pull"}, "accepts 1 arg(s), received 0; usage: nomad-driver-jail image pull URL/NAME:TAG"},
		{[]string{"build", "web:1", "x", "--cmd", "[1]", "--directory", "/tmp"}, `--cmd: [1] is no JSON list of strings`},
		{[]string{"build", "web:1", "x", "--env", "A", "--directory", "/tmp"}, `--env "A" has no =`},
		{[]string{"list", "--colour"}, "unknown flag: --colour"},
		{[]string{"lst"}, `unknown command "lst"`},
	} {
		_, _, err := run(t, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.sentence) || ExitCode(err) != 2 {
			t.Errorf("%v: %v, want %s and exit code 2", c.args, err, c.sentence)
		}
	}
	if code := ExitCode(errors.New("the disk is full")); code != 1 {
		t.Errorf("exit code %d", code)
	}
}
