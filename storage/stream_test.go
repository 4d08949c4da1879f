package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/zfs/pool"
)

// potStream is what pot exported on FreeBSD 12.2: zfs send -R of a file system with conf/pot.conf in it and of its child m.
func potStream(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open("testdata/pot-hello_1.0.xz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpacked is the substream that a stream consists of.
func unpacked(data []byte, incremental bool) ([]byte, error) {
	u, err := openStream(bytes.NewReader(data), incremental)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = u.copyTo(&out)
	return out.Bytes(), err
}

func TestPot(t *testing.T) {
	data := potStream(t)
	pot, err := OpenPot(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(pot.Conf, "pot.cmd=/bin/httpd -f -p 80 -h /usr/local/www\n") || pot.Created.Year() != 2026 {
		t.Errorf("conf %q of %v", pot.Conf, pot.Created)
	}
	root, err := io.ReadAll(pot.Root)
	if err != nil || !bytes.Contains(data, root) {
		t.Fatalf("root of %d bytes: %v", len(root), err)
	}
	if again, err := unpacked(root, false); err != nil || !bytes.Equal(again, root) {
		t.Errorf("the root is no stream: %v", err)
	}
	if _, err := unpacked(data, false); err == nil || !strings.Contains(err.Error(), "/m@1605960000 as well") {
		t.Errorf("a pot as an image: %v", err)
	}
	for n := 0; n < len(root); n += 997 {
		if _, err := unpacked(root[:n], false); !errors.Is(err, errCut) {
			t.Fatalf("%d of %d bytes: %v", n, len(root), err)
		}
	}
	if !pool.Kernel() {
		t.Log("zfs-fuse is older than the ZFS that made the stream and can't receive it; FreeBSD and OpenZFS do")
		return
	}
	b := newZFS(t)
	if err := b.Receive(t.Context(), "t", "", bytes.NewReader(root)); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context(), "t", "pot", nil); err != nil {
		t.Fatal(err)
	}
	dir, err := b.Clone(t.Context(), "pot", "nja", CloneOptions{TaskID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	defer removeTask(t, b, "nja")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) == 0 {
		t.Errorf("root %v, %v", entries, err)
	}
}

// made is a record with some of its fields set, of the size given.
func made(order binary.ByteOrder, kind uint32, payload int, fields map[int]uint64, name string) []byte {
	r := make([]byte, headSize+payload)
	order.PutUint32(r, kind)
	for at, value := range fields {
		order.PutUint64(r[at:], value)
	}
	copy(r[56:], name)
	return r
}

func TestStreams(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		// The type of the contents and the flags share eight bytes.
		contents := func(kind uint64) uint64 {
			if order == binary.BigEndian {
				return kind << 32
			}
			return kind
		}
		begin := func(name string, changes ...uint64) []byte {
			fields := map[int]uint64{8: beginMagic, 16: kindSubstream, 32: contents(contentFileSystem)}
			for i := 0; i < len(changes); i += 2 {
				fields[int(changes[i])] = changes[i+1]
			}
			return made(order, typeBegin, 0, fields, name)
		}
		end := made(order, typeEnd, 0, nil, "")
		write := made(order, typeWrite, 512, map[int]uint64{32: 512}, "")
		whole := func(b []byte) []byte { return bytes.Join([][]byte{b, write, end}, nil) }
		packed := func(parts ...[]byte) []byte {
			head := made(order, typeBegin, 0, map[int]uint64{8: beginMagic, 16: kindPackage}, "p@s")
			return bytes.Join([][]byte{head, end, bytes.Join(parts, nil), end}, nil)
		}
		for name, test := range map[string]struct {
			stream      []byte
			incremental bool
			want        string // "" for none
		}{
			"one":                   {stream: whole(begin("p@s"))},
			"one with properties":   {stream: packed(whole(begin("p@s")))},
			"a difference":          {stream: whole(begin("p@s", 48, 7)), incremental: true},
			"packed difference":     {stream: packed(whole(begin("p@s", 48, 7))), incremental: true},
			"no difference":         {stream: whole(begin("p@s")), incremental: true, want: "is whole"},
			"unasked difference":    {stream: whole(begin("p@s", 48, 7)), want: "names no parent"},
			"nothing":               {stream: nil, want: "cut short"},
			"text":                  {stream: []byte(strings.Repeat("text", 100)), want: "not a stream"},
			"no begin":              {stream: made(order, typeWrite, 0, map[int]uint64{8: beginMagic}, ""), want: "does not begin"},
			"volume":                {stream: whole(begin("p@s", 32, contents(3))), want: "not a file system"},
			"encrypted":             {stream: whole(begin("p@s", 16, kindSubstream|featureRaw<<2)), want: "encrypted"},
			"redacted":              {stream: whole(begin("p@s", 16, kindSubstream|featureRedacted<<2)), want: "redacted"},
			"two snapshots":         {stream: packed(whole(begin("p@s")), whole(begin("p@t", 48, 7))), want: "holds p@t as well"},
			"child":                 {stream: packed(whole(begin("p@s")), whole(begin("p/x@s"))), want: "holds p/x@s as well"},
			"empty package":         {stream: packed(), want: "does not begin"},
			"package in a package":  {stream: packed(packed(whole(begin("p@s")))), want: "unknown kind 2"},
			"loose records":         {stream: packed(write), want: "does not begin"},
			"records after the end": {stream: packed(whole(begin("p@s")), write), want: "outside of its snapshots"},
			"unknown record":        {stream: append(begin("p@s"), made(order, 99, 0, nil, "")...), want: "unknown type 99"},
			"huge record":           {stream: append(begin("p@s"), made(order, typeWrite, 0, map[int]uint64{32: 1 << 62}, "")...), want: "damaged"},
			"two":                   {stream: append(whole(begin("p@s")), whole(begin("p@s"))...), want: "after its end"},
		} {
			_, err := unpacked(test.stream, test.incremental)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, %v: %v; want %s", name, order, err, test.want)
			}
		}
	}
}

func run(t *testing.T, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// TestHostileProperties receives what would take over the host if its properties came into effect.
func TestHostileProperties(t *testing.T) {
	b := newZFS(t)
	dir := t.TempDir()
	source := b.parent.Child("source")
	run(t, "zfs", "create", "-o", "mountpoint="+dir+"/source", "-o", "setuid=on", "-o", "sharenfs=off", "-o", "nomad-driver-jail:id=t", string(source))
	t.Cleanup(func() { exec.Command("zfs", "unmount", string(source)).Run() })
	write(t, dir+"/source/file", "text")
	run(t, "zfs", "snapshot", source.Snapshot("one"))
	packed := run(t, "zfs", "send", "-p", source.Snapshot("one"))
	if !bytes.Contains(packed, []byte("mountpoint")) {
		t.Fatal("the stream has no properties")
	}
	if err := b.Receive(t.Context(), "t", "", bytes.NewReader(packed)); err != nil {
		t.Fatal(err)
	}
	got := run(t, "zfs", "get", "-Hp", "-o", "property,source", "mountpoint,setuid,sharenfs,nomad-driver-jail:id", string(b.temporary("t")))
	if bytes.Contains(got, []byte("local")) || bytes.Contains(got, []byte("received")) {
		t.Errorf("properties came with the stream:\n%s", got)
	}
	if err := b.Commit(t.Context(), "t", "i", nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, imageRoot(t, b, "i")+"/file"); got != "text" {
		t.Errorf("file %q", got)
	}
	write(t, dir+"/source/file", "text 2")
	run(t, "zfs", "snapshot", source.Snapshot("two"))
	err := b.Receive(t.Context(), "u", "", bytes.NewReader(run(t, "zfs", "send", "-R", source.Snapshot("two"))))
	if err == nil || !strings.Contains(err.Error(), "as well") {
		t.Errorf("two snapshots: %v", err)
	}
	if left, err := b.Temporary(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestSnapshotOfOthers has somebody's automatic snapshots come between an image's making and its commit: they are no part of it.
func TestSnapshotOfOthers(t *testing.T) {
	z := newZFS(t)
	if _, err := z.Create(t.Context(), "t", ""); err != nil {
		t.Fatal(err)
	}
	run(t, "zfs", "snapshot", z.temporary("t").Snapshot("auto"))
	commit(t, z, "t", "i", nil)
	if err := z.Receive(t.Context(), "u", "", bytes.NewReader(stream(t, z, "", "i"))); err != nil {
		t.Error(err)
	}
	if err := z.RemoveImage(t.Context(), "i"); err != nil {
		t.Error(err)
	}
}
