package image

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
)

// renumber gives the snapshot of that name in a stream of zfs send another one's number, and makes its checksums right again: whoever makes
// a stream can. What the records are is told in storage/stream.go.
func renumber(stream []byte, name string, number uint64) {
	var sum [4]uint64
	add := func(b []byte) {
		for ; len(b) > 0; b = b[4:] { // Fletcher's checksum of 4 sums
			sum[0] += uint64(binary.LittleEndian.Uint32(b))
			sum[1] += sum[0]
			sum[2] += sum[1]
			sum[3] += sum[2]
		}
	}
	put := func(b []byte) {
		if !bytes.Equal(b[:32], make([]byte, 32)) {
			for i, s := range sum {
				binary.LittleEndian.PutUint64(b[8*i:], s)
			}
		}
	}
	for len(stream) > 0 {
		head, at := stream[:312], func(n int) int { return int(binary.LittleEndian.Uint32(stream[n:])) }
		round := func(n int) int { return (n + 7) &^ 7 }
		payload := 0
		switch kind := at(0); kind {
		case 0: // begin
			sum = [4]uint64{}
			payload = at(4)
			if strings.HasSuffix(string(bytes.TrimRight(head[56:], "\x00")), name) {
				binary.LittleEndian.PutUint64(head[40:], number)
			}
		case 1: // object
			payload = max(at(36), round(at(28)))
		case 3: // write
			payload = at(32)
		case 5: // end
			put(head[8:])
		}
		add(head[:280])
		if at(0) != 0 {
			put(head[280:]) // of each record, in today's streams
		}
		add(head[280:])
		add(stream[312 : 312+payload])
		stream = stream[312+payload:]
	}
}

func number(stream []byte) uint64 { return binary.LittleEndian.Uint64(stream[40:]) }

func readManifest(t *testing.T, dir, name string) Manifest {
	t.Helper()
	ref, err := ParseReference(name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseManifest(read(t, filepath.Join(dir, ref.fileName(".json"))), ref)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// pulledOrNot is for a store that has two snapshots of one number: zfs-fuse looks for the base of a difference by itself, and may be refused
// the one it finds.
func pulledOrNot(t *testing.T, err error) bool {
	t.Helper()
	if err != nil && (pool.Kernel() || !strings.Contains(err.Error(), "local origin for clone")) {
		t.Fatal(err)
	}
	return err == nil
}

// TestDifferenceFromAnother has a registry publish somebody's difference, bit by bit, as one from a base of its own, whose snapshot has the
// number of the honest one. Who pulls the honest image gets nothing of that, pinned, signed or neither.
func TestDifferenceFromAnother(t *testing.T) {
	dir, evilDir := t.TempDir(), t.TempDir()
	_, manifests := versions(t, dir)
	maker := newHost(t, "zfs", Options{})
	tree := makeTree(t, 4<<20)
	write(t, filepath.Join(tree, "etc/version"), []byte("1"))
	write(t, filepath.Join(tree, "etc/motd"), []byte("evil!\n"))
	base := publishFrom(t, maker, "evil:1", tree, BuildOptions{}, evilDir)
	maker.vanish(t)
	plain := plainStream(t, evilDir, base)
	renumber(plain, "@image", number(plainStream(t, dir, manifests["1"])))
	forge(t, evilDir, base, plain)
	evil := manifests["2"]
	evil.Parent = "evil:1@" + readManifest(t, evilDir, "evil:1").ID()
	data, err := json.Marshal(evil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(evilDir, "web_2.json"), data)
	write(t, filepath.Join(evilDir, "web_2.zfs.zst"), read(t, filepath.Join(dir, "web_2.zfs.zst")))
	if evil.Digest != manifests["2"].Digest || evil.ID() == manifests["2"].ID() {
		t.Fatalf("the streams' digests are %s and %s, the IDs %s and %s", evil.Digest, manifests["2"].Digest, evil.ID(), manifests["2"].ID())
	}

	theirs, ours := newRegistry(t, evilDir), newRegistry(t, dir)
	h := newHost(t, "zfs", Options{})
	taken, err := h.Ensure(t.Context(), theirs.ref(t, "web:2"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Which files a difference hits in a base that it is not from is the file system's chance: FreeBSD 12.2 loses this one.
	motd, err := os.ReadFile(h.root(t, taken) + "/etc/motd")
	if string(motd) == "hello\n" || digestPrefix+taken.ID != evil.ID() {
		t.Fatalf("the attack is none: motd %q, %v, ID %s", motd, err, taken.ID)
	}
	before := h.state(t)
	_, err = h.Ensure(t.Context(), theirs.ref(t, "web:2@"+manifests["2"].ID()), EnsureOptions{})
	h.refused(t, err, "image web:2: the registry's digest is "+evil.ID()+" now and not "+manifests["2"].ID()+" as the reference says; ", before, prefix)
	_, err = h.Ensure(t.Context(), theirs.ref(t, "web:2@"+evil.Digest), EnsureOptions{})
	h.refused(t, err, "image web:2: "+evil.Digest+" is the digest of its stream only, ", before, prefix)

	keyFile := filepath.Join(t.TempDir(), "k")
	key, err := GenerateKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web:1", "web:2"} {
		if err := Sign(dir, ours.ref(t, name), key); err != nil {
			t.Fatal(err)
		}
	}
	careful := New(h.backend(), h.options(Options{Keys: []string{keyFile + ".pub"}}))
	for i, s := range []*Store{h.Store, careful} {
		for _, name := range []string{"web:2", "web:2@" + manifests["2"].ID()} {
			img, err := s.Ensure(t.Context(), ours.ref(t, name), EnsureOptions{ForcePull: true})
			if !pulledOrNot(t, err) {
				continue
			}
			if motd := string(read(t, h.root(t, img)+"/etc/motd")); motd != "hello\n" || digestPrefix+img.ID != manifests["2"].ID() || img.Pin() != manifests["2"].ID() {
				t.Errorf("%s, store %d: motd %q, ID %s, pinned by %s", name, i, motd, img.ID, img.Pin())
			}
		}
	}
	if ours.count("/web_2.zfs.zst") == 0 || ours.count("/web_1.zfs.zst") != 1 {
		t.Errorf("asked for %v", ours.gets)
	}
}

// TestPotOnAnother is the same for pots, whose differences name what they stand on and nothing more.
func TestPotOnAnother(t *testing.T) {
	p, evil := newPotMaker(t), newPotMaker(t)
	for maker, motd := range map[*potMaker]string{p: "first\n", evil: "evil!\n"} {
		maker.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"etc/motd": motd})
	}
	p.make(t, "more", "2.0", helloConf, "hello:1.0@1605960000", p.dataset+"/hello/m@1605960000", map[string]string{"etc/more": "more\n"})
	for _, maker := range []*potMaker{p, evil} {
		maker.run(t, "zfs", "destroy", "-R", maker.dataset+"/hello")
	}
	potManifest := Manifest{Name: "hello", Tag: "1.0", Compression: "xz"}
	honest := plainPot(t, p.dir, potManifest)
	root := honest[bytes.LastIndex(honest, []byte(p.dataset+"/hello/m@1605960000"))-56:]
	plain := plainPot(t, evil.dir, potManifest)
	renumber(plain, "/hello/m@1605960000", number(root))
	stream := compressed(t, "xz", plain)
	file := filepath.Join(evil.dir, "hello_1.0.xz")
	write(t, file, stream)
	h := skein.New()
	h.Write(append(stream, "-\n"...))
	write(t, file+".skein", []byte(hex.EncodeToString(h.Sum(nil))))
	for _, suffix := range []string{"", ".meta", ".skein"} {
		write(t, filepath.Join(evil.dir, "more_2.0.xz"+suffix), read(t, filepath.Join(p.dir, "more_2.0.xz"+suffix)))
	}

	theirs, ours := newRegistry(t, evil.dir), newRegistry(t, p.dir)
	host := newHost(t, "zfs", Options{OS: "freebsd"})
	taken, err := host.Ensure(t.Context(), theirs.ref(t, "more:2.0"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if motd := string(read(t, host.root(t, taken)+"/etc/motd")); motd != "evil!\n" {
		t.Fatalf("the attack is none: motd %q", motd)
	}
	img, err := host.Ensure(t.Context(), ours.ref(t, "more:2.0"), EnsureOptions{})
	if pulledOrNot(t, err) {
		if motd := string(read(t, host.root(t, img)+"/etc/motd")); motd != "first\n" || img.ID == taken.ID {
			t.Errorf("motd %q, ID %s, which was %s", motd, img.ID, taken.ID)
		}
	}
	if ours.count("/more_2.0.xz") == 0 {
		t.Errorf("asked for %v", ours.gets)
	}
	_, err = host.Ensure(t.Context(), ours.ref(t, "more:2.0"+"@"+taken.Pin()), EnsureOptions{})
	if err == nil {
		t.Error("what another registry's stands on is taken by its digest")
	}
	_, err = Verify(t.Context(), ours.ref(t, "more:2.0@"+taken.Pin()), "", Options{OS: "freebsd"}, nil)
	if want := "image more:2.0: it is a pot that stands on another, and only a pull tells the digest of such a one; verify it without the digest"; err == nil || err.Error() != want {
		t.Errorf("verified by its digest: %v, want %s", err, want)
	}
}

func plainPot(t *testing.T, dir string, m Manifest) []byte {
	t.Helper()
	from, to := filepath.Join(dir, "hello_1.0.xz"), Reference{Name: m.Name, Tag: m.Tag}.fileName(m.suffix())
	scratch := t.TempDir()
	write(t, filepath.Join(scratch, to), read(t, from))
	return plainStream(t, scratch, m)
}

// TestID fixes the bytes that an ID is of: other programs may compute it.
func TestID(t *testing.T) {
	m := Manifest{Digest: someDigest}
	if m.ID() != someDigest {
		t.Errorf("a whole image: %s", m.ID())
	}
	m.Parent = "web:1"
	if m.ID() != "" {
		t.Errorf("on a parent that is not known: %s", m.ID())
	}
	m.Parent = "web:1@sha256:" + strings.Repeat("ab", 32)
	// (echo incremental image; echo DIGEST; echo PARENT) | sha256sum
	if want := "sha256:5b44ce5b0772eff24ea2b53ef776ad18b3bb807fd5af5595450c8e0f6921f2a3"; m.ID() != want {
		t.Errorf("a difference: %s, want %s", m.ID(), want)
	}
}

// TestFormerID has in the store an image that is called by its stream's digest though it is a difference, as once was done.
func TestFormerID(t *testing.T) {
	h := newHost(t, "tar", Options{})
	ref := newRegistry(t, t.TempDir()).ref(t, "web:2")
	r := record{Reference: ref.unpinned(), Manifest: Manifest{Name: "web", Tag: "2", Format: "zfs", Digest: someDigest, Parent: "web:1@" + someDigest}}
	value, err := r.value()
	if err != nil {
		t.Fatal(err)
	}
	root, err := h.backend().Create(t.Context(), "t", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := h.backend().Commit(t.Context(), "t", strings.TrimPrefix(someDigest, digestPrefix), map[string]string{r.key(): value}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{someDigest, r.Manifest.ID()} {
		if img, err := h.findID(t.Context(), id); err != errNotHere {
			t.Errorf("%s is %s, %v", id, img.ID, err)
		}
		ref.Digest = id
		if img, err := h.find(t.Context(), ref); err != errNotHere {
			t.Errorf("%s is %s, %v", ref, img.ID, err)
		}
	}
}

// TestFormerReference: an image whose only reference is none any more is listed, and so collected.
func TestFormerReference(t *testing.T) {
	h := newHost(t, "tar", Options{})
	r := record{Reference: "file:/srv/web:1", Manifest: Manifest{Name: "web", Tag: "1", Format: "tar", Digest: someDigest}}
	value, err := r.value()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.backend().Create(t.Context(), "t", ""); err != nil {
		t.Fatal(err)
	}
	id := strings.TrimPrefix(someDigest, digestPrefix)
	if err := h.backend().Commit(t.Context(), "t", id, map[string]string{r.key(): value}); err != nil {
		t.Fatal(err)
	}
	list, err := h.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestBaseUnsigned builds upon an image that the host pulled before it had keys.
func TestBaseUnsigned(t *testing.T) {
	dir := t.TempDir()
	builder := newHost(t, "tar", Options{})
	tree := makeTree(t, 1000)
	publishFrom(t, builder, "base:1", tree, BuildOptions{}, dir)
	r := newRegistry(t, dir)
	h := newHost(t, "tar", Options{})
	base, err := h.Ensure(t.Context(), r.ref(t, "base:1"), EnsureOptions{})
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "k")
	key, err := GenerateKey(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	careless := h.Store
	h.Store = New(h.backend(), h.options(Options{Keys: []string{keyFile + ".pub"}}))
	names := []string{"base:1", r.url + "/base:1", base.ID[:12], r.url + "/base:1@" + base.Pin()}
	before := h.state(t)
	for _, name := range names {
		_, _, err := cook(t, h, "web:1", "base "+name+"\ncmd /bin/web\n", nil, BuildOptions{})
		h.refused(t, err, "image web:1: line 1 of the recipe: base: image base:1: it is not signed", before, prefix)
	}
	if err := Sign(dir, base.Reference, key); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if _, _, err := cook(t, h, "web:1", "base "+name+"\ncmd /bin/web\n", nil, BuildOptions{}); err != nil {
			t.Errorf("signed, as %s: %v", name, err)
		}
	}
	if n := r.count("/base_1.tar.zst"); n != 1 {
		t.Errorf("%d downloads", n)
	}

	// What the tag has left has no name, and nobody's signature.
	img, err := h.Find(t.Context(), "web:1")
	if err == nil {
		err = h.Remove(t.Context(), img)
	}
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(tree, "etc/motd"), []byte("new\n"))
	publishFrom(t, builder, "base:1", tree, BuildOptions{}, dir)
	if _, err := careless.Ensure(t.Context(), base.Reference, EnsureOptions{ForcePull: true}); err != nil {
		t.Fatal(err)
	}
	before = h.state(t)
	_, _, err = cook(t, h, "web:1", "base "+base.ID+"\ncmd /bin/web\n", nil, BuildOptions{})
	h.refused(t, err, "image web:1: line 1 of the recipe: base: image "+base.ID+": it has lost its name", before, prefix)
}
