package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// exported is a folder with the image web:1, signed with the key in it.
func exported(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	store := []string{"--state-dir", t.TempDir(), "--directory", t.TempDir()}
	must(t, "sign", "--generate", dir+"/key")
	must(t, append(store, "build", "web:1", someTree(t))...)
	must(t, append(store, "export", "web:1", dir, "--sign", dir+"/key.sec")...)
	return dir
}

// TestProgress has a push take a second and a half, to a terminal and to a file: a bar is drawn on the one and not on the other.
func TestProgress(t *testing.T) {
	dir := exported(t)
	stream, err := os.ReadFile(dir + "/web_1.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/web_1.tar.zst" {
			image.Handler(dir).ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(stream)))
		for i := range 8 {
			w.Write(stream[len(stream)*i/8 : len(stream)*(i+1)/8])
			http.NewResponseController(w).Flush()
			time.Sleep(150 * time.Millisecond)
		}
	}))
	defer slow.Close()
	pull := func(stderr io.Writer) {
		t.Helper()
		if err := execute(t.Context(), io.Discard, stderr, "pull", slow.URL+"/web:1", "--state-dir", t.TempDir(), "--directory", t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	master, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	drawn := make(chan string)
	go func() {
		var all bytes.Buffer
		io.Copy(&all, master) // ends with the terminal's close
		drawn <- all.String()
	}()
	pull(terminal)
	terminal.Close()
	text := <-drawn
	if !strings.Contains(text, "%") || !strings.Contains(text, "█") || strings.Count(text, "\r") < 5 {
		t.Errorf("a terminal has no bar: %q", text)
	}
	if n := strings.Count(text, " MiB of "); n != 1 {
		t.Errorf("%d last lines: %q", n, text)
	}

	plain, err := os.Create(t.TempDir() + "/stderr")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	pull(plain)
	data, err := os.ReadFile(plain.Name())
	if err != nil || !bytes.HasPrefix(data, []byte(unverified+"http")) || !bytes.Contains(data, []byte("\nPulling web:1: ")) || bytes.ContainsAny(data, "\r%█") {
		t.Errorf("a file has %q, %v", data, err)
	}
}

// unverified is what a pull without keys says first.
const unverified = "[WARN]  the image's origin is not verified: no keys are configured: image="

// TestPushProgress counts all files together.
func TestPushProgress(t *testing.T) {
	dir := exported(t)
	_, problems, err := run(t, "push", dir, "web:1", t.TempDir())
	if err != nil || strings.Count(problems, "\n") != 1 || !strings.HasPrefix(problems, "Pushing web:1: ") {
		t.Errorf("%v, says %q", err, problems)
	}
	began := time.Now().Add(-10 * time.Second)
	var out bytes.Buffer
	root := (&app{}).serve()
	root.SetErr(&out)
	b := (&app{}).newBar(root, "Pushing")
	b.update(image.Progress{Bytes: 1 << 20, Total: 4 << 20})
	if out.Len() > 0 {
		t.Errorf("at once it says %q", out.String())
	}
	b.began, b.next = began, began
	b.update(image.Progress{Bytes: 2 << 20, Total: 4 << 20})
	if want := "Pushing: 2.0 MiB of 4.0 MiB, 0.2 MiB/s\n"; out.String() != want {
		t.Errorf("after ten seconds it says %q, want %q", out.String(), want)
	}
	b.end()
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("a line is there twice: %q", out.String())
	}
}

func TestJSON(t *testing.T) {
	dir := exported(t)
	store := []string{"--json", "--state-dir", t.TempDir(), "--directory", t.TempDir()}
	decode := func(v any, args ...string) {
		t.Helper()
		out := must(t, append(args, store...)...)
		if err := json.Unmarshal([]byte(out), v); err != nil {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	var pushed pushedJSON
	to := t.TempDir()
	decode(&pushed, "push", dir, "web:1", to)
	if pushed.Reference != to+"/web:1" || pushed.Manifest.Name != "web" {
		t.Errorf("push: %+v", pushed)
	}
	var key keyJSON
	decode(&key, "sign", "--generate", to+"/other")
	if len(key.ID) != 16 || key.SecretFile != to+"/other.sec" || key.PublicFile != to+"/other.pub" {
		t.Errorf("sign --generate: %+v", key)
	}
	var signed []signedJSON
	decode(&signed, "sign", "--key", key.SecretFile, to, "web:1")
	if len(signed) != 1 || signed[0] != (signedJSON{"web:1", key.ID}) {
		t.Errorf("sign: %+v", signed)
	}
	var pulled imageJSON
	decode(&pulled, "pull", "file://"+to+"/web:1", "--key", key.PublicFile)
	var list []imageJSON
	decode(&list, "list")
	if pulled.SignedBy != key.ID || len(list) != 1 || list[0].SignedBy != key.ID {
		t.Errorf("pull: %+v, list: %+v", pulled, list)
	}
	if out := must(t, append([]string{"inspect", "web:1"}, store...)...); !strings.Contains(out, `"clones": []`) {
		t.Errorf("inspect: %s", out)
	}
	out, _, err := run(t, append([]string{"rm", "none:1", "web:1", "other:1"}, store...)...)
	var removed []removedJSON
	if jsonErr := json.Unmarshal([]byte(out), &removed); jsonErr != nil || len(removed) != 3 || removed[0].Removed || removed[0].Error == "" || !removed[1].Removed || removed[2].Removed {
		t.Errorf("rm: %s, %v", out, jsonErr)
	}
	if err == nil || !strings.Contains(err.Error(), "image none:1") || !strings.Contains(err.Error(), "image other:1") {
		t.Errorf("rm: %v", err)
	}

	recipe := filepath.Join(t.TempDir(), "recipe")
	if err := os.WriteFile(recipe, []byte("copy recipe /\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, problems, err := run(t, append([]string{"build", "--recipe", recipe, "made:1"}, store...)...)
	if jsonErr := json.Unmarshal([]byte(out), &pulled); err != nil || jsonErr != nil || !strings.Contains(problems, "copy recipe /") {
		t.Errorf("build: %v, %v, %s, says %q", err, jsonErr, out, problems)
	}
	var served struct{ Folder, URL string }
	if err := json.Unmarshal([]byte(serveLine(t, to, "--json")), &served); err != nil || served.Folder != to || !strings.HasPrefix(served.URL, "http://127.0.0.1:") {
		t.Errorf("serve: %+v, %v", served, err)
	}
}

// TestPluginDefaults has pull and verify go by the plugin's configuration, and flags go before that.
func TestPluginDefaults(t *testing.T) {
	dir := exported(t)
	other := t.TempDir()
	must(t, "sign", "--generate", other+"/key")
	nowhere := "http://registry.invalid"
	plugin := Defaults{Directory: t.TempDir(), Images: image.Options{
		Keys:     []string{other + "/key.pub"},
		Limits:   image.Limits{Retry: 100 * time.Millisecond},
		Registry: image.RegistryOptions{Mirrors: map[string][]string{nowhere: {"file://" + dir}}},
	}}
	state := t.TempDir()
	with := func(args ...string) error {
		return executeWith(t.Context(), plugin, io.Discard, io.Discard, append(args, "--state-dir", state)...)
	}
	for _, command := range []string{"verify", "pull"} {
		if err := with(command, "file://"+dir+"/web:1"); err == nil || !strings.Contains(err.Error(), "this host trusts ") {
			t.Errorf("%s of what the plugin's keys have not signed: %v", command, err)
		}
		if err := with(command, nowhere+"/web:1", "--key", dir+"/key.pub"); err != nil {
			t.Errorf("%s from the plugin's mirror, with another key: %v", command, err)
		}
		if err := with(command, nowhere+"/web:1", "--key", dir+"/key.pub", "--force", "--mirror", nowhere+"=file://"+other); command == "pull" && err == nil {
			t.Error("pull from another mirror that has no image: it is here")
		}
	}
	plugin.Images = image.Options{Registry: image.RegistryOptions{AuthFile: other + "/none"}}
	if err := with("verify", "file://"+dir+"/web:1"); err != nil {
		t.Errorf("a file URL wants no credentials: %v", err)
	}
	if err := with("push", dir, "web:1", "http://127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), other+"/none") {
		t.Errorf("push without the plugin's auth_file: %v", err)
	}
	// The time of the image's use is set back by two hours.
	images := t.TempDir()
	store := []string{"--state-dir", t.TempDir(), "--directory", images, "--json"}
	must(t, append([]string{"pull", "file://" + dir + "/web:1"}, store...)...)
	used, err := filepath.Glob(images + "/locks/used/*")
	if err != nil || len(used) != 1 {
		t.Fatal(used, err)
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(used[0], long, long); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		gc   image.GCOptions
		args []string
		goes bool
	}{
		{image.GCOptions{Delay: 72 * time.Hour}, nil, false}, {image.GCOptions{Delay: time.Hour}, nil, true}, {image.GCOptions{}, nil, true},
		{image.GCOptions{Delay: 72 * time.Hour, MaxSize: 1}, nil, true},
		{image.GCOptions{Delay: time.Hour}, []string{"--delay", "3h"}, false}, {image.GCOptions{Delay: 72 * time.Hour, MaxSize: 1}, []string{"--max-size", "1GiB"}, false},
	} {
		var out bytes.Buffer
		args := append(append([]string{"gc", "--dry-run"}, c.args...), store...)
		if err := executeWith(t.Context(), Defaults{GC: c.gc}, &out, io.Discard, args...); err != nil || (strings.TrimSpace(out.String()) != "[]") != c.goes {
			t.Errorf("%+v with %v: %v, %s", c.gc, c.args, err, out.String())
		}
	}
}

// TestGCFails has gc remove one image and fail at the next, whose lock is not to be had: it names both.
func TestGCFails(t *testing.T) {
	dir, images := exported(t), t.TempDir()
	store := []string{"--state-dir", t.TempDir(), "--directory", images, "--json"}
	builder := []string{"--state-dir", t.TempDir(), "--directory", t.TempDir()}
	other := someTree(t)
	if err := os.WriteFile(other+"/other", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, append(builder, "build", "web:2", other)...)
	must(t, append(builder, "export", "web:2", dir)...)
	var pulled [2]imageJSON
	for i := range pulled {
		if err := json.Unmarshal([]byte(must(t, append(store, "pull", fmt.Sprintf("file://%s/web:%d", dir, i+1))...)), &pulled[i]); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(time.Duration(i-3) * time.Hour)
		if err := os.Chtimes(filepath.Join(images, "locks/used", pulled[i].ID), then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(images, "images", pulled[1].ID, "lock"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, _, err := run(t, append(store, "gc", "--delay", "1h")...)
	var removed []imageJSON
	if jsonErr := json.Unmarshal([]byte(out), &removed); jsonErr != nil || len(removed) != 1 || removed[0].ID != pulled[0].ID {
		t.Errorf("removed %s, %v", out, jsonErr)
	}
	if err == nil || !strings.Contains(err.Error(), pulled[1].ID) {
		t.Errorf("of the other: %v", err)
	}
}

// TestUnreadablePlugin: who may not read the plugin's configuration goes without, a damaged one is nobody's.
func TestUnreadablePlugin(t *testing.T) {
	dir := exported(t)
	for cause, refused := range map[error]bool{fs.ErrPermission: false, errors.New("config.json is damaged"): true} {
		plugin := func(string, string) (Defaults, error) { return Defaults{}, cause }
		root := &cobra.Command{Use: "nomad-driver-jail", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(New(nil, plugin))
		var problems bytes.Buffer
		root.SetOut(io.Discard)
		root.SetErr(&problems)
		root.SetArgs([]string{"image", "verify", "file://" + dir + "/web:1"})
		err := root.ExecuteContext(t.Context())
		if refused != errors.Is(err, cause) || !refused && (err != nil || !strings.Contains(problems.String(), "the plugin's configuration is left aside")) {
			t.Errorf("%v: %v, says %q", cause, err, problems.String())
		}
		root.SetArgs([]string{"image", "list", "--directory", dir + "/none"})
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "there is no store in "+dir+"/none") {
			t.Errorf("%v: a store that is named: %v", cause, err)
		}
		if d, err := (&app{plugin: plugin}).defaults(root); err == nil && d.GC.Delay != usualDelay {
			t.Errorf("%v: images stay for %v", cause, d.GC.Delay)
		}
	}
}

// TestRefusedPush is told how a token is given.
func TestRefusedPush(t *testing.T) {
	dir := exported(t)
	registry := httptest.NewServer(image.WritableHandler(t.TempDir(), "0123456789abcdef"))
	defer registry.Close()
	auth := filepath.Join(t.TempDir(), "auth.json")
	for key, good := range map[string]bool{registry.URL: true, strings.TrimPrefix(registry.URL, "http://"): false} {
		if err := os.WriteFile(auth, fmt.Appendf(nil, `{"auths": {%q: {"registrytoken": "0123456789abcdef"}}}`, key), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := run(t, "push", dir, "web:1", registry.URL, "--auth-file", auth)
		if good && err != nil || !good && (err == nil || !strings.Contains(err.Error(), "401 Unauthorized: the token is not this registry's); "+wayIn)) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestNoStore(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	dataset := pool.Dataset(t) + "/none"
	stores := map[string][]string{none: {"--directory", none}, dataset: {"--dataset", dataset}}
	for where, flags := range stores {
		for _, command := range [][]string{{"list"}, {"gc"}, {"rm", "web:1"}} {
			_, _, err := run(t, append(append(command, "--state-dir", t.TempDir()), flags...)...)
			if want := "there is no store in " + where + "; the first pull or build makes it"; err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v: %v, want %s", command, err, want)
			}
		}
	}
}

// TestLeftoverStays has a pull warn of what is no image in the store, and pull.
func TestLeftoverStays(t *testing.T) {
	dir, images := exported(t), t.TempDir()
	store := []string{"--state-dir", t.TempDir(), "--directory", images}
	must(t, append(store, "pull", "file://"+dir+"/web:1")...)
	if err := os.WriteFile(images+"/incoming/.nfs01", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, problems, err := run(t, append(store, "pull", "--force", "file://"+dir+"/web:1")...)
	if err != nil || !strings.Contains(problems, "what killed pulls left is not removed") {
		t.Errorf("%v, says %q", err, problems)
	}
}

// TestRelativeDirectory builds into a store that is named from here.
func TestRelativeDirectory(t *testing.T) {
	tree := someTree(t)
	t.Chdir(t.TempDir())
	var built imageJSON
	out := must(t, "build", "web:1", tree, "--directory", "store", "--state-dir", t.TempDir(), "--json")
	if err := json.Unmarshal([]byte(out), &built); err != nil || !filepath.IsAbs(built.Root) {
		t.Errorf("%s, %v", out, err)
	}
}

// TestFailureOnce has a pull that fails say so once.
func TestFailureOnce(t *testing.T) {
	_, problems, err := run(t, "pull", "file:///nowhere/web:1", "--directory", t.TempDir(), "--state-dir", t.TempDir())
	if err == nil || problems != unverified+"file:///nowhere/web:1\n" {
		t.Errorf("%v, and on stderr %q", err, problems)
	}
}

// TestRecipeOfHelp reads the example that users begin with.
func TestRecipeOfHelp(t *testing.T) {
	out, _, err := run(t, "build", "--help")
	if err != nil {
		t.Fatal(err)
	}
	var recipe strings.Builder
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "    ") && !strings.Contains(line, "--") || strings.HasPrefix(line, "    #") {
			recipe.WriteString(line)
		}
	}
	if _, err := image.ParseRecipe(strings.NewReader(recipe.String()), t.TempDir()); err != nil || !strings.Contains(recipe.String(), "cmd ") {
		t.Errorf("%v:\n%s", err, recipe.String())
	}
}
