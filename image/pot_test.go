package image

import (
	"encoding/hex"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

const helloConf = `pot.level=0
pot.type=single
pot.cmd=/bin/httpd -f -p 80 -h "/usr/local/my www"
host.hostname="hello.lab"
osrelease="12.2-RELEASE"
pot.attr.no-rc-script=YES
vnet=true
pot.export.ports=80
pot.export.ports=udp:53:5300
pot.env=GREETING="hello from a pot" EMPTY=
`

// potMaker makes pots as pot does: a dataset with conf/pot.conf, and below it m with the root.
type potMaker struct {
	dataset, mounts, dir string
}

func newPotMaker(t *testing.T) *potMaker {
	t.Helper()
	mounts := t.TempDir()
	return &potMaker{dataset: pool.Dataset(t), mounts: mounts, dir: t.TempDir()}
}

func (p *potMaker) run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// make exports a pot whose m is a clone of another's snapshot, unless origin is "".
func (p *potMaker) make(t *testing.T, name, tag, conf, meta, origin string, files map[string]string) {
	t.Helper()
	d := p.dataset + "/" + name
	p.run(t, "zfs", "create", "-o", "mountpoint="+p.mounts+"/"+name, "-o", "canmount=on", d)
	if origin == "" {
		p.run(t, "zfs", "create", "-o", "canmount=on", d+"/m")
	} else {
		p.run(t, "zfs", "clone", "-o", "mountpoint="+p.mounts+"/"+name+"/m", origin, d+"/m")
	}
	all := map[string]string{"conf/pot.conf": conf, "conf/fscomp.conf": ""}
	for file, text := range files {
		all["m/"+file] = text
	}
	for file, text := range all {
		path := filepath.Join(p.mounts, name, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, []byte(text))
	}
	p.run(t, "zfs", "snapshot", "-r", d+"@1605960000")
	p.export(t, name, tag, meta, "zfs send -R "+d+"@1605960000")
}

func (p *potMaker) export(t *testing.T, name, tag, meta, send string) {
	t.Helper()
	file := filepath.Join(p.dir, name+"_"+tag+".xz")
	p.run(t, "sh", "-c", send+" | xz > "+file)
	write(t, file+".meta", []byte(meta+"\n"))
	h := skein.New()
	h.Write(read(t, file))
	h.Write([]byte(meta + "\n"))
	write(t, file+".skein", []byte(hex.EncodeToString(h.Sum(nil))+"\n"))
}

func TestPots(t *testing.T) {
	p := newPotMaker(t)
	p.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"bin/httpd": "program", "etc/motd": "first\n", "var/data": strings.Repeat("data ", 200000)})
	p.make(t, "more", "2.0", helloConf, "hello:1.0@1605960000", p.dataset+"/hello/m@1605960000", map[string]string{"etc/motd": "second\n"})
	p.run(t, "zfs", "destroy", "-R", p.dataset+"/hello")

	r := newRegistry(t, p.dir)
	h := newHost(t, "zfs", Options{OS: "freebsd"})
	var last Progress
	img, err := h.Ensure(t.Context(), r.ref(t, "more:2.0"), EnsureOptions{Progress: func(p Progress) { last = p }})
	if err != nil {
		t.Fatal(err)
	}
	if motd := string(read(t, h.root(t, img)+"/etc/motd")); motd != "second\n" {
		t.Errorf("motd is %q", motd)
	}
	if data := read(t, h.root(t, img)+"/var/data"); len(data) != 1000000 {
		t.Errorf("data has %d bytes", len(data))
	}
	if last.Bytes == 0 || last.Bytes != last.Total {
		t.Errorf("the last progress is %+v", last)
	}
	d := img.Manifest.Defaults
	if d.Command != "/bin/httpd" || !slices.Equal(d.Args, []string{"-f", "-p", "80", "-h", "/usr/local/my www"}) ||
		!maps.Equal(d.Env, map[string]string{"GREETING": "hello from a pot", "EMPTY": ""}) || !slices.Equal(d.Ports, []string{"80", "53/udp"}) ||
		d.Attributes["no-rc-script"] != "YES" || img.Manifest.OSRelease != "12.2-RELEASE" || img.Manifest.OS != "freebsd" {
		t.Errorf("the manifest is %+v", img.Manifest)
	}

	before := r.count("/hello_1.0.xz") + r.count("/more_2.0.xz")
	if before != 2 {
		t.Errorf("%d downloads for two pots", before)
	}
	for _, ref := range []Reference{r.ref(t, "hello:1.0"), r.ref(t, "more:2.0"), r.ref(t, "more:2.0@"+img.Pin())} {
		for _, force := range []bool{false, true} {
			again, err := h.Ensure(t.Context(), ref, EnsureOptions{ForcePull: force})
			if err != nil || r.count("/hello_1.0.xz")+r.count("/more_2.0.xz") != before {
				t.Errorf("%s again: %v, %v", ref, again.ID, err)
			}
		}
	}
}

func TestPotRefusals(t *testing.T) {
	p := newPotMaker(t)
	p.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"etc/motd": "first\n"})
	d := p.dataset + "/hello"
	p.make(t, "open", "1", `pot.cmd="/bin/true`, "-", "", nil)
	p.export(t, "single", "1", "-", "zfs send "+d+"/m@1605960000")
	p.export(t, "text", "1", "-", "echo no stream")
	p.run(t, "zfs", "create", d+"/extra")
	p.run(t, "zfs", "snapshot", "-r", d+"@2")
	p.export(t, "extra", "1", "-", "zfs send -R "+d+"@2")
	p.make(t, "child", "1", helloConf, "none:1@5", "", nil)
	p.make(t, "hostile", "1", helloConf, "http://h/x:1@5", "", nil)
	p.make(t, "other", "1", helloConf, "-", "", nil)
	p.run(t, "zfs", "rename", p.dataset+"/other/m", p.dataset+"/other/n")
	p.export(t, "other", "1", "-", "zfs send -R "+p.dataset+"/other@1605960000")

	r := newRegistry(t, p.dir)
	h := newHost(t, "zfs", Options{OS: "freebsd"})
	before := h.state(t)
	flip := onlyFiles(".xz", func(w http.ResponseWriter, req *http.Request, good http.Handler) {
		b := fetch(good, req.URL.Path)
		b[len(b)/2] ^= 1
		w.Write(b)
	})
	for _, c := range []struct {
		image    string
		fault    fault
		sentence string
	}{
		{"nothing:1", nil, "image nothing:1: the registry has no " + r.url + "/nothing_1.json (404 Not Found); check name and tag, or publish the image"},
		{"hello:1.0", flip, "image hello:1.0: the Skein-1024 of its stream and meta is "},
		{"hello:1.0", onlyFiles(".meta", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { io.WriteString(w, "\n") }), "image hello:1.0: the Skein-1024 of its stream and meta is "},
		{"hello:1.0", onlyFiles(".skein", func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { io.WriteString(w, "abc") }), "image hello:1.0: its .skein file is not what skein1024 -q prints; export it again"},
		{"hello:1.0", onlyFiles(".xz", status(404)), "image hello:1.0: the registry has no " + r.url + "/hello_1.0.xz (404 Not Found)"},
		{"hello:1.0@" + someDigest, nil, "image hello:1.0: the registry's digest is sha256:"},
		{"open:1", nil, "image open:1: its stream cannot be unpacked: its pot.conf has in pot.cmd an open quotation mark"},
		{"single:1", nil, "image single:1: its stream cannot be unpacked: the stream is of one dataset and not of a pot; export it with pot export"},
		{"text:1", nil, "image text:1: its stream cannot be unpacked: the stream is cut short"},
		{"extra:1", nil, "image extra:1: its stream cannot be unpacked: the stream has "},
		{"other:1", nil, "image other:1: its stream cannot be unpacked: the stream has the dataset"},
		{"child:1", nil, "image child:1: below it, image none:1: the registry has no " + r.url + "/none_1.json (404 Not Found)"},
		{"hostile:1", nil, `image hostile:1: its .meta file names "http://h/x:1@5", which is no NAME:TAG@SNAPSHOT; export it again`},
	} {
		r.misbehave(c.fault)
		_, err := h.Ensure(t.Context(), r.ref(t, c.image), EnsureOptions{})
		h.refused(t, err, c.sentence, before, prefix)
	}
	r.misbehave(nil)

	linux := newHost(t, "zfs", Options{OS: "linux", Arch: "amd64"})
	if _, err := linux.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{}); err == nil || !strings.Contains(err.Error(), "it is for freebsd/amd64 and this host is linux/amd64") {
		t.Errorf("on Linux: %v", err)
	}

	key, err := GenerateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	secretFile := filepath.Join(t.TempDir(), "k")
	if _, err := GenerateKey(secretFile); err != nil {
		t.Fatal(err)
	}
	careful := newHost(t, "zfs", Options{OS: "freebsd", Keys: []string{secretFile + ".pub"}})
	if _, err := careful.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{}); err == nil || !strings.Contains(err.Error(), "it is not signed, the registry has no "+r.url+"/hello_1.0.xz.skein.sig") {
		t.Errorf("without a signature: %v", err)
	}
	skeinFile := filepath.Join(p.dir, "hello_1.0.xz.skein")
	write(t, skeinFile+".sig", key.sign(read(t, skeinFile)))
	if _, err := careful.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{}); err == nil || !strings.Contains(err.Error(), "it is signed with the key "+key.Public().ID()) {
		t.Errorf("with another's signature: %v", err)
	}
	ours, err := ReadSecretKey(secretFile + ".sec")
	if err != nil {
		t.Fatal(err)
	}
	write(t, skeinFile+".sig", ours.sign(read(t, skeinFile)))
	if img, err := careful.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{}); err != nil || img.SignedBy != ours.Public().ID() {
		t.Errorf("signed: %+v, %v", img, err)
	}
}

// TestPotsInBuckets has registries answer otherwise than with 404 for what they do not have.
func TestPotsInBuckets(t *testing.T) {
	p := newPotMaker(t)
	p.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"etc/motd": "first\n"})
	p.make(t, "bare", "1.0", helloConf, "-", "", map[string]string{"etc/motd": "second\n"})
	bare := filepath.Join(p.dir, "bare_1.0.xz")
	sum := skein.New()
	sum.Write(read(t, bare))
	write(t, bare+".skein", []byte(hex.EncodeToString(sum.Sum(nil))+"\n"))
	if err := os.Remove(bare + ".meta"); err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "k")
	if _, err := GenerateKey(keyFile); err != nil {
		t.Fatal(err)
	}
	for code, nothing := range map[int]string{
		http.StatusGone:      "image nothing:1: the registry has no REGISTRY/nothing_1.json (410 Gone); check name and tag, or publish the image",
		http.StatusForbidden: "image nothing:1: the registry refuses REGISTRY/nothing_1.json (403 Forbidden); put credentials for it into the plugin's configuration",
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			r := newRegistry(t, p.dir)
			r.misbehave(func(w http.ResponseWriter, req *http.Request, good http.Handler) {
				if _, err := os.Stat(p.dir + req.URL.Path); err != nil {
					w.WriteHeader(code)
					return
				}
				good.ServeHTTP(w, req)
			})
			h := newHost(t, "zfs", Options{OS: "freebsd", Limits: impatient})
			careful := New(h.backend(), h.options(Options{OS: "freebsd", Keys: []string{keyFile + ".pub"}}))
			before := h.state(t)
			_, err := h.Ensure(t.Context(), r.ref(t, "nothing:1"), EnsureOptions{})
			h.refused(t, err, strings.Replace(nothing, "REGISTRY", r.url, 1), before, whole)
			_, err = careful.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
			h.refused(t, err, "image hello:1.0: it is not signed", before, prefix)
			for _, image := range []string{"hello:1.0", "bare:1.0"} {
				if _, err := h.Ensure(t.Context(), r.ref(t, image), EnsureOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPotBelowUnsigned has a signed pot stand on one that was pulled before the host had keys.
func TestPotBelowUnsigned(t *testing.T) {
	p := newPotMaker(t)
	p.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"etc/motd": "first\n"})
	p.make(t, "more", "2.0", helloConf, "hello:1.0@1605960000", p.dataset+"/hello/m@1605960000", map[string]string{"etc/motd": "second\n"})
	p.run(t, "zfs", "destroy", "-R", p.dataset+"/hello")
	keyFile := filepath.Join(t.TempDir(), "k")
	key, err := GenerateKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(pot string) {
		file := filepath.Join(p.dir, pot+".xz.skein")
		write(t, file+".sig", key.sign(read(t, file)))
	}
	sign("more_2.0")
	r := newRegistry(t, p.dir)
	h := newHost(t, "zfs", Options{OS: "freebsd"})
	below, err := h.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.root(t, below) // a look at what is here mounts it
	before := h.state(t)
	careful := New(h.backend(), h.options(Options{OS: "freebsd", Keys: []string{keyFile + ".pub"}}))
	_, err = careful.Ensure(t.Context(), r.ref(t, "more:2.0"), EnsureOptions{})
	h.refused(t, err, "image more:2.0: below it, image hello:1.0: it is not signed", before, prefix)

	sign("hello_1.0")
	img, err := careful.Ensure(t.Context(), r.ref(t, "more:2.0"), EnsureOptions{})
	if err != nil || img.SignedBy != key.Public().ID() || r.count("/hello_1.0.xz") != 1 {
		t.Errorf("both signed: %+v, %v, %d downloads of the one below", img, err, r.count("/hello_1.0.xz"))
	}
}

const freeBSDPot = "../storage/testdata/pot-hello_1.0.xz"

// TestFreeBSDPot takes a pot that pot exported on FreeBSD 12.2: everywhere its configuration, and where the host's ZFS can
// receive it, all of it.
func TestFreeBSDPot(t *testing.T) {
	f, err := os.Open(freeBSDPot)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	decoder, err := decodeXz(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	p, err := storage.OpenPot(decoder)
	if err != nil || !strings.Contains(p.Conf, "pot.cmd=/bin/httpd -f -p 80 -h /usr/local/www\n") {
		t.Fatal(p, err)
	}
	if n, err := io.Copy(io.Discard, p.Root); err != nil || n != 63000 {
		t.Errorf("the root's stream has %d bytes, %v", n, err)
	}

	if !pool.Kernel() {
		t.Skip("zfs-fuse is older than the ZFS that made the stream and can't receive it; FreeBSD and OpenZFS run this")
	}
	dir := t.TempDir()
	h := skein.New()
	for suffix, data := range map[string][]byte{".xz": read(t, freeBSDPot), ".xz.meta": []byte("-\n")} {
		write(t, filepath.Join(dir, "hello_1.0"+suffix), data)
	}
	h.Write(append(read(t, freeBSDPot), "-\n"...))
	write(t, filepath.Join(dir, "hello_1.0.xz.skein"), []byte(hex.EncodeToString(h.Sum(nil))+"\n"))
	host := newHost(t, "zfs", Options{OS: "freebsd"})
	img, err := host.Ensure(t.Context(), newRegistry(t, dir).ref(t, "hello:1.0"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if img.Manifest.Defaults.Env["GREETING"] != "hello from a pot" || !isDir(host.root(t, img)+"/usr/local/www") {
		t.Errorf("%+v has %s", img, list(t, host.root(t, img)))
	}
}

// TestForeignSkein has a manifest claim to be a pot that the host may want one day.
func TestForeignSkein(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	r := newRegistry(t, dir)
	r.misbehave(manifestField("skein", strings.Repeat("ab", skein.Size)))
	img, err := newHost(t, "tar", Options{}).Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
	if err != nil || img.Manifest.Skein != "" {
		t.Errorf("%q, %v", img.Manifest.Skein, err)
	}
}
