package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// TestSignatures verifies what signify and minisign wrote.
func TestSignatures(t *testing.T) {
	const dir = "testdata/sign/"
	message := read(t, dir+"message")
	var keys []PublicKey
	for _, name := range []string{"signify", "minisign"} {
		k, err := ParsePublicKey(dir + name + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if line, err := ParsePublicKey(strings.Split(string(read(t, dir+name+".pub")), "\n")[1]); err != nil || line.ID() != k.ID() {
			t.Errorf("%s's key from its line: %v, %v", name, line.ID(), err)
		}
		keys = append(keys, k)
	}
	if id := keys[1].ID(); id != "C6C8931025BA68BF" {
		t.Errorf("minisign's key is %s", id)
	}
	for _, c := range []struct {
		file     string
		keys     []PublicKey
		change   func(message, signature string) (string, string)
		sentence string
	}{
		{file: "message.signify", keys: keys},
		{file: "message.minisign", keys: keys},
		{file: "message.minisign-legacy", keys: keys},
		{file: "message.signify", keys: keys[1:], sentence: "it is signed with the key 671AE1E33C051977 and this host trusts C6C8931025BA68BF; sign it with one of these"},
		{file: "message.signify", keys: keys, change: func(m, s string) (string, string) { return m + " ", s }, sentence: "is not of this manifest"},
		{file: "message.minisign", keys: keys, change: func(m, s string) (string, string) { return m + " ", s }, sentence: "is not of this manifest"},
		{file: "message.minisign", keys: keys, change: func(m, s string) (string, string) { return m, strings.Replace(s, "trusted words", "other words", 1) }, sentence: "is not of this manifest"},
		{file: "message.minisign", keys: keys, change: func(m, s string) (string, string) { return m, s[:len(s)-20] }, sentence: "has a trusted comment that is not signed"},
		{file: "message", keys: keys, sentence: "its signature is none of signify or minisign"},
	} {
		m, s := string(message), string(read(t, dir+c.file))
		if c.change != nil {
			m, s = c.change(m, s)
		}
		id, err := verify([]byte(m), []byte(s), c.keys)
		if c.sentence == "" && (err != nil || id == "") || c.sentence != "" && (err == nil || !strings.Contains(err.Error(), c.sentence)) {
			t.Errorf("%s: %s, %v, want %q", c.file, id, err, c.sentence)
		}
	}
}

// TestSigning has signify and minisign keys sign here, and where the programs are installed has them judge.
func TestSigning(t *testing.T) {
	message := []byte("some manifest\n")
	dir := t.TempDir()
	made, err := GenerateKey(dir + "/own")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := GenerateKey(dir + "/own"); err == nil {
		t.Error("a key is overwritten")
	}
	if info, err := os.Stat(dir + "/own.sec"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the secret key's mode: %v, %v", info, err)
	}
	for _, c := range []struct{ secret, public string }{
		{dir + "/own.sec", dir + "/own.pub"},
		{"testdata/sign/signify.sec", "testdata/sign/signify.pub"},
		{"testdata/sign/minisign.sec", "testdata/sign/minisign.pub"},
	} {
		secret, err := ReadSecretKey(c.secret)
		if err != nil {
			t.Fatal(err)
		}
		public, err := ParsePublicKey(c.public)
		if err != nil {
			t.Fatal(err)
		}
		text := secret.sign(message)
		if _, err := verify(message, text, []PublicKey{public}); err != nil {
			t.Errorf("%s: %v", c.secret, err)
		}
		signify, err := exec.LookPath("signify-openbsd")
		if err != nil {
			signify, err = exec.LookPath("signify")
		}
		if err != nil || strings.Contains(c.secret, "minisign") {
			continue
		}
		write(t, dir+"/message", message)
		write(t, dir+"/message.sig", text)
		if out, err := exec.Command(signify, "-V", "-p", c.public, "-m", dir+"/message", "-x", dir+"/message.sig").CombinedOutput(); err != nil {
			t.Errorf("signify says of %s: %s", c.secret, out)
		}
	}
	if made.Public().ID() == "" {
		t.Error("the key has no ID")
	}
	locked, err := keyBytes(read(t, "testdata/sign/signify.sec"))
	if err != nil {
		t.Fatal(err)
	}
	locked[7] = 42 // rounds of the function that makes a key of a passphrase
	write(t, dir+"/locked.sec", commented("locked", locked))
	if _, err := ReadSecretKey(dir + "/locked.sec"); err == nil || !strings.Contains(err.Error(), "is locked by a passphrase; sign with the program that made it") {
		t.Errorf("a locked key: %v", err)
	}
	if _, err := ReadSecretKey("testdata/sign/signify.pub"); err == nil || !strings.Contains(err.Error(), "no secret key") {
		t.Errorf("a public key: %v", err)
	}
}

// TestSignedImages has a host that trusts one key meet images with and without its signature.
func TestSignedImages(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	r := newRegistry(t, dir)
	keys := t.TempDir()
	ours, err := GenerateKey(filepath.Join(keys, "ours"))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := GenerateKey(filepath.Join(keys, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, "tar", Options{Keys: []string{filepath.Join(keys, "ours.pub")}})
	before := h.state(t)
	ref := r.ref(t, "web:1")
	_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
	h.refused(t, err, "image web:1: it is not signed, the registry has no "+r.url+"/web_1.json.sig, and this host takes signed images only; sign it with: image sign", before, whole)

	if err := Sign(dir, ref, theirs); err != nil {
		t.Fatal(err)
	}
	_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
	h.refused(t, err, "image web:1: it is signed with the key "+theirs.Public().ID()+" and this host trusts "+ours.Public().ID()+
		"; sign it with one of these, or add the key to the plugin's configuration", before, whole)

	if err := Sign(dir, ref, ours); err != nil {
		t.Fatal(err)
	}
	r.misbehave(manifestField("defaults", map[string]any{"command": "/bin/evil"}))
	_, err = h.Ensure(t.Context(), ref, EnsureOptions{})
	h.refused(t, err, "image web:1: its signature by the key "+ours.Public().ID()+" is not of this manifest: one of them has been changed; sign it again", before, whole)
	r.misbehave(nil)

	img, err := h.Ensure(t.Context(), ref, EnsureOptions{})
	if err != nil || img.SignedBy != ours.Public().ID() {
		t.Errorf("signed: %+v, %v", img, err)
	}

	// A host that trusted everything looks again when it begins to care, and downloads nothing.
	h = newHost(t, "tar", Options{})
	if _, err := h.Ensure(t.Context(), ref, EnsureOptions{}); err != nil {
		t.Fatal(err)
	}
	careful := New(h.backend(), h.options(Options{Keys: []string{filepath.Join(keys, "ours.pub")}}))
	downloads := r.count("/web_1.tar.zst")
	if img, err := careful.Ensure(t.Context(), ref, EnsureOptions{}); err != nil || img.SignedBy != ours.Public().ID() || r.count("/web_1.tar.zst") != downloads {
		t.Errorf("%+v, %v, %d more downloads", img, err, r.count("/web_1.tar.zst")-downloads)
	}
	wrong := New(h.backend(), h.options(Options{Keys: []string{"/nowhere/key.pub"}}))
	if _, err := wrong.Ensure(t.Context(), ref, EnsureOptions{}); err == nil || !strings.Contains(err.Error(), "/nowhere/key.pub: no such file") {
		t.Errorf("a key that is not there: %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestUnverified counts how often a pull says that nobody vouches for its image: once, of an image with two below it, at the
// third URL.
func TestUnverified(t *testing.T) {
	dir := t.TempDir()
	versions(t, dir)
	r, gone := newRegistry(t, dir), newRegistry(t, t.TempDir())
	var log bytes.Buffer
	h := newHost(t, "zfs", Options{Logger: hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Warn})})
	ref := r.ref(t, "web:3")
	ref.Mirrors = []string{gone.url, gone.url}
	const sentence = "the image's origin is not verified: no keys are configured"
	for _, step := range []struct {
		what  string
		force bool
		want  int
	}{{"pulled", false, 1}, {"here", false, 1}, {"asked for again", true, 2}} {
		if _, err := h.Ensure(t.Context(), ref, EnsureOptions{ForcePull: step.force}); err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(log.String(), sentence); n != step.want {
			t.Errorf("%s: said %d times, want %d: %s", step.what, n, step.want, log.String())
		}
	}
}

func TestGenerateKeyTwice(t *testing.T) {
	for _, suffix := range []string{".sec", ".pub"} {
		path := t.TempDir() + "/key"
		write(t, path+suffix, []byte("old"))
		if _, err := GenerateKey(path); err == nil || err.Error() != path+suffix+" is there already; give the new key another name" {
			t.Error(err)
		}
		if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 || string(read(t, path+suffix)) != "old" {
			t.Errorf("%v, %v", entries, err)
		}
	}
}
