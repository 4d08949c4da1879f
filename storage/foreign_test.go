package storage

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// These tests are about streams that others made, with all that today's ZFS can put into one.

// sender is a dataset of somebody else.
type sender struct {
	Dataset
	dir string // where it is mounted
}

func newSender(t *testing.T, options ...string) sender {
	t.Helper()
	if !pool.Kernel() {
		t.Skip("zfs-fuse makes no such streams; FreeBSD and OpenZFS run this")
	}
	dir := t.TempDir()
	s := sender{Dataset(pool.Dataset(t)).Child("sent"), dir + "/sent"}
	args := append([]string{"create", "-o", "mountpoint=" + s.dir}, options...)
	run(t, append(append([]string{"zfs"}, args...), string(s.Dataset))...)
	return s
}

// send takes a snapshot, of children too, and sends it.
func (s sender) send(t *testing.T, snapshot string, options ...string) []byte {
	t.Helper()
	run(t, "zfs", "snapshot", "-r", s.Snapshot(snapshot))
	return run(t, append(append([]string{"zfs", "send"}, options...), s.Snapshot(snapshot))...)
}

// kinds counts the records of a stream by their type; of writes, those that are compressed.
func kinds(t *testing.T, data []byte) (counts map[uint32]int, compressed int) {
	t.Helper()
	counts = map[uint32]int{}
	for len(data) > 0 {
		r := record{binary.LittleEndian, data[:headSize]}
		n, err := r.payload()
		if err != nil {
			t.Fatal(err)
		}
		counts[r.kind()]++
		if r.kind() == typeWrite && r.byte(50) != 0 {
			compressed++
		}
		data = data[headSize+int(n):]
	}
	return counts, compressed
}

// TestRecordsOfToday receives compressed, embedded and large blocks, and attributes that spill over.
func TestRecordsOfToday(t *testing.T) {
	z := newZFS(t)
	s := newSender(t, "-o", "compression=lz4", "-o", "recordsize=1M")
	write(t, s.dir+"/large", strings.Repeat(content, 3))
	write(t, s.dir+"/embedded", strings.Repeat("a", 100000))
	write(t, s.dir+"/spilled", "")
	attributes := exec.Command("zfs", "set", "xattr=sa", string(s.Dataset)).Run() == nil
	if attributes {
		for _, name := range []string{"user.a", "user.b"} {
			attributes = unix.Setxattr(s.dir+"/spilled", name, bytes.Repeat([]byte("x"), 8000), 0) == nil && attributes
		}
	}
	data := s.send(t, "a", "-L", "-e", "-c")
	counts, compressed := kinds(t, data)
	if compressed == 0 || counts[typeWriteEmbedded] == 0 || attributes && counts[typeSpill] == 0 {
		t.Fatalf("the stream has records %v, of them %d compressed", counts, compressed)
	}
	if err := z.Receive(t.Context(), "t", "", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := z.Commit(t.Context(), "t", "i", nil); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"/large": strings.Repeat(content, 3), "/embedded": strings.Repeat("a", 100000), "/spilled": ""} {
		if got := read(t, imageRoot(t, z, "i")+file); got != want {
			t.Errorf("%s has %d bytes, want %d", file, len(got), len(want))
		}
	}
	value := make([]byte, 10000)
	if n, err := unix.Getxattr(imageRoot(t, z, "i")+"/spilled", "user.b", value); attributes && (err != nil || n != 8000) {
		t.Errorf("an attribute has %d bytes, %v", n, err)
	}
	for tenth := range 10 {
		if err := z.Receive(t.Context(), "cut", "", bytes.NewReader(data[:len(data)*tenth/10])); err == nil {
			t.Errorf("%d tenths of the stream were taken for it", tenth)
		}
	}
	if left, err := z.Temporary(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// hostile properties, any of which would do harm, or hide an image, if it came into effect. Those that a ZFS does not know are left out.
var hostile = []string{
	"canmount=on", "readonly=off", "setuid=on", "exec=on", "devices=on", "atime=on", "overlay=on", "acltype=posix", "snapdir=visible",
	"sharenfs=off", "sharesmb=off", "quota=1G", "refquota=1G", "reservation=1M", "refreservation=1M", "copies=3", "sync=always",
	"primarycache=none", "dedup=on", "filesystem_limit=1", "snapshot_limit=3", "context=none",
	"nomad-driver-jail:id=u", "nomad-driver-jail:root=m", "nomad-driver-jail:task=stolen", "nomad-driver-jail:reference=trusted:1",
}

func TestNoPropertyIsReceived(t *testing.T) {
	z := newZFS(t)
	s := newSender(t)
	set := []string{"mountpoint"}
	for _, p := range hostile {
		name, _, _ := strings.Cut(p, "=")
		if exec.Command("zfs", "set", p, string(s.Dataset)).Run() == nil {
			set = append(set, name)
		}
	}
	if len(set) < 18 {
		t.Fatalf("only %v could be set", set)
	}
	write(t, s.dir+"/file", "text")
	zoned := exec.Command("zfs", "set", "jailed=on", string(s.Dataset))
	run(t, "zfs", "snapshot", s.Snapshot("a"))
	if zoned.Run() == nil {
		set = append(set, "jailed")
	}
	run(t, "zfs", "hold", "mine", s.Snapshot("a"))
	t.Cleanup(func() { run(t, "zfs", "release", "mine", s.Snapshot("a")) })
	properties := func(d Dataset) []byte {
		return run(t, "zfs", "get", "-Hp", "-r", "-s", "local,received", "-o", "name,property,value,source", "all", string(d))
	}
	for _, flag := range []string{"-p", "-R"} {
		data := run(t, "zfs", "send", flag, s.Snapshot("a"))
		bare := s.Child("bare")
		cmd := exec.Command("zfs", "receive", "-u", string(bare))
		cmd.Stdin = bytes.NewReader(data)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("a bare receive: %v: %s", err, out)
		}
		received := properties(bare)
		run(t, "zfs", "destroy", "-r", string(bare))
		for _, name := range set {
			if !bytes.Contains(received, []byte("\t"+name+"\t")) {
				t.Errorf("%s does not come with send %s to anybody:\n%s", name, flag, received)
			}
		}
		if err := z.Receive(t.Context(), "t", "", bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		got := properties(z.temporary("t"))
		for _, name := range set {
			if bytes.Contains(got, []byte("\t"+name+"\t")) {
				t.Errorf("%s came with send %s:\n%s", name, flag, got)
			}
		}
		if held := run(t, "zfs", "holds", "-H", z.temporary("t").Snapshot(imageSnapshot)); len(held) > 0 {
			t.Errorf("holds came with send %s: %s", flag, held)
		}
		if err := z.Commit(t.Context(), "t", "i", nil); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(imageRoot(t, z, "i")+"/new", nil, 0o644); err == nil {
			t.Error("the image can be written to")
		}
		images, err := z.Images(t.Context())
		if err != nil || len(images) != 1 || len(images[0].Props) > 0 {
			t.Errorf("images %+v, %v", images, err)
		}
		if err := z.RemoveImage(t.Context(), "i"); err != nil {
			t.Error(err)
		}
	}
}

// TestForeignStreams refuses all that is not one snapshot of one file system, whole and in the clear.
func TestForeignStreams(t *testing.T) {
	z := newZFS(t)
	makeImage(t, z, "base", "", nil, "file", "text")
	s := newSender(t)
	write(t, s.dir+"/file", content)
	one := s.send(t, "one")
	write(t, s.dir+"/file", "changed")
	two := s.send(t, "two", "-R")
	difference := run(t, "zfs", "send", "-i", "@one", s.Snapshot("two"))
	family := sender{Dataset: s.Child("family")}
	run(t, "zfs", "create", "-p", string(family.Child("child")))
	children := family.send(t, "a", "-R")
	run(t, "zfs", "create", "-s", "-V", "1M", string(s.Child("volume")))
	run(t, "zfs", "snapshot", s.Child("volume").Snapshot("a"))
	volume := run(t, "zfs", "send", s.Child("volume").Snapshot("a"))

	for name, test := range map[string]struct {
		data []byte
		base string
		want string
	}{
		"snapshots":             {data: two, want: "sent@two as well"},
		"child":                 {data: children, want: "family/child@a as well"},
		"difference":            {data: difference, want: "names no parent"},
		"another's difference":  {data: difference, base: "base", want: "cannot receive"},
		"whole for a child":     {data: one, base: "base", want: "is whole"},
		"volume":                {data: volume, want: "not a file system"},
		"the rest of an upload": {data: rest(t, s, one), want: "cannot receive"},
		"encrypted":             {data: encrypted(t, s), want: "encrypted"},
		"redacted":              {data: redacted(t, s), want: "redacted"},
	} {
		if test.data == nil {
			t.Logf("this ZFS makes no stream of the kind %q", name)
			continue
		}
		err := z.Receive(t.Context(), "t", test.base, bytes.NewReader(test.data))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %s", name, err, test.want)
		}
		t.Logf("%s: %v", name, err)
		if left, err := z.Temporary(t.Context()); err != nil || len(left) > 0 {
			t.Fatalf("%s: left %v, %v", name, left, err)
		}
	}
}

// rest is what a sender sends to who has received a part and kept it.
func rest(t *testing.T, s sender, data []byte) []byte {
	t.Helper()
	receive := exec.Command("zfs", "receive", "-s", "-u", string(s.Child("part")))
	receive.Stdin = bytes.NewReader(data[:len(data)/2])
	if err := receive.Run(); err == nil {
		t.Fatal("half a stream was received")
	}
	token := run(t, "zfs", "get", "-H", "-o", "value", "receive_resume_token", string(s.Child("part")))
	rest := run(t, "zfs", "send", "-t", strings.TrimSpace(string(token)))
	run(t, "zfs", "receive", "-A", string(s.Child("part")))
	return rest
}

func encrypted(t *testing.T, s sender) []byte {
	t.Helper()
	if exec.Command("zfs", "get", "encryption", s.Pool()).Run() != nil {
		return nil
	}
	key := t.TempDir() + "/key"
	write(t, key, "0123456789abcdef0123456789abcdef")
	d := s.Child("encrypted")
	run(t, "zfs", "create", "-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file://"+key, string(d))
	run(t, "zfs", "snapshot", d.Snapshot("a"))
	return run(t, "zfs", "send", "-w", d.Snapshot("a"))
}

func redacted(t *testing.T, s sender) []byte {
	t.Helper()
	d := s.Child("redacted")
	run(t, "zfs", "create", string(d))
	write(t, s.dir+"/redacted/secret", content)
	run(t, "zfs", "snapshot", d.Snapshot("a"))
	run(t, "zfs", "clone", d.Snapshot("a"), string(s.Child("public")))
	if err := os.Remove(s.dir + "/public/secret"); err != nil {
		t.Fatal(err)
	}
	run(t, "zfs", "snapshot", s.Child("public").Snapshot("a"))
	if exec.Command("zfs", "redact", d.Snapshot("a"), "book", s.Child("public").Snapshot("a")).Run() != nil {
		return nil
	}
	return run(t, "zfs", "send", "--redact", "book", d.Snapshot("a"))
}
