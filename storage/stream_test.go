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

type substream struct {
	bytes.Buffer
	child  string
	closed bool
}

func (s *substream) Close() error { s.closed = true; return nil }

func splitAll(data []byte, incremental bool) ([]*substream, error) {
	var all []*substream
	s := splitter{incremental: incremental, open: func(child string) (io.WriteCloser, error) {
		all = append(all, &substream{child: child})
		return all[len(all)-1], nil
	}}
	return all, s.split(bytes.NewReader(data))
}

func TestSplitPot(t *testing.T) {
	data := potStream(t)
	parts, err := splitAll(data, false)
	if err != nil || len(parts) != 2 || parts[0].child != "" || parts[1].child != "m" {
		t.Fatalf("parts %v, %v", parts, err)
	}
	for _, p := range parts {
		if !p.closed || !bytes.Contains(data, p.Bytes()) {
			t.Errorf("part %q was changed or not closed", p.child)
		}
		// Each is a stream of its own.
		again, err := splitAll(p.Bytes(), false)
		if err != nil || len(again) != 1 || !bytes.Equal(again[0].Bytes(), p.Bytes()) {
			t.Errorf("part %q is no stream: %v", p.child, err)
		}
	}
	for n := 0; n < len(data); n += 97 {
		if _, err := splitAll(data[:n], false); !errors.Is(err, errCut) && !strings.Contains(err.Error(), "no end") {
			t.Fatalf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := splitAll(append(data, 'x'), false); err == nil || !strings.Contains(err.Error(), "after its end") {
		t.Errorf("one byte more: %v", err)
	}
}

// made is a record with some of its fields set, of the size given.
func made(order binary.ByteOrder, kind uint32, payload int, fields map[int]uint64, name string) []byte {
	r := make([]byte, headSize+payload)
	order.PutUint32(r, kind)
	for at, value := range fields {
		order.PutUint64(r[at:], value)
	}
	copy(r[64:], name)
	return r
}

func TestSplit(t *testing.T) {
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
			"one":                  {stream: whole(begin("p@s"))},
			"one with properties":  {stream: packed(whole(begin("p@s")))},
			"pot's":                {stream: packed(whole(begin("p@s")), whole(begin("p/m@s")))},
			"a difference":         {stream: whole(begin("p@s", 48, 7)), incremental: true},
			"packed difference":    {stream: packed(whole(begin("p@s", 48, 7))), incremental: true},
			"no difference":        {stream: whole(begin("p@s")), incremental: true, want: "is whole"},
			"unasked difference":   {stream: whole(begin("p@s", 48, 7)), want: "names no parent"},
			"nothing":              {stream: nil, want: "cut short"},
			"text":                 {stream: []byte(strings.Repeat("text", 100)), want: "not a stream"},
			"no begin":             {stream: made(order, typeWrite, 0, map[int]uint64{8: beginMagic}, ""), want: "does not begin"},
			"volume":               {stream: whole(begin("p@s", 32, contents(3))), want: "not a file system"},
			"encrypted":            {stream: whole(begin("p@s", 16, kindSubstream|featureRaw<<2)), want: "encrypted"},
			"redacted":             {stream: whole(begin("p@s", 16, kindSubstream|featureRedacted<<2)), want: "redacted"},
			"two snapshots":        {stream: packed(whole(begin("p@s")), whole(begin("p@t", 48, 7))), want: "a second snapshot"},
			"two of the child":     {stream: packed(whole(begin("p@s")), whole(begin("p/m@s")), whole(begin("p/m@s"))), want: "a second snapshot"},
			"another child":        {stream: packed(whole(begin("p@s")), whole(begin("p/x@s"))), want: "holds p/x@s beside p@s"},
			"child's child":        {stream: packed(whole(begin("p@s")), whole(begin("p/m/m@s"))), want: "beside"},
			"another snapshot":     {stream: packed(whole(begin("p@s")), whole(begin("p/m@t"))), want: "beside"},
			"dots":                 {stream: packed(whole(begin("p@s")), whole(begin("p/../m@s"))), want: "beside"},
			"empty package":        {stream: packed(), want: "no snapshot"},
			"package in a package": {stream: packed(packed(whole(begin("p@s")))), want: "unknown kind 2"},
			"loose records":        {stream: packed(write), want: "outside of its snapshots"},
			"unknown record":       {stream: append(begin("p@s"), made(order, 99, 0, nil, "")...), want: "unknown type 99"},
			"huge record":          {stream: append(begin("p@s"), made(order, typeWrite, 0, map[int]uint64{32: 1 << 62}, "")...), want: "damaged"},
			"two":                  {stream: append(whole(begin("p@s")), whole(begin("p@s"))...), want: "after its end"},
		} {
			_, err := splitAll(test.stream, test.incremental)
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
	if got := read(t, b.ImageRoot("i")+"/file"); got != "text" {
		t.Errorf("file %q", got)
	}
	write(t, dir+"/source/file", "text 2")
	run(t, "zfs", "snapshot", source.Snapshot("two"))
	err := b.Receive(t.Context(), "u", "", bytes.NewReader(run(t, "zfs", "send", "-R", source.Snapshot("two"))))
	if err == nil || !strings.Contains(err.Error(), "second snapshot") {
		t.Errorf("two snapshots: %v", err)
	}
	if left, err := b.Temporary(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// makePot makes a stream as pot does, with something of the caller's in it.
func makePot(t *testing.T, b *ZFS, change func(dir string)) []byte {
	t.Helper()
	dir := t.TempDir()
	source := b.parent.Child("pot")
	run(t, "zfs", "create", "-o", "mountpoint="+dir+"/pot", string(source))
	run(t, "zfs", "create", string(source.Child("m")))
	write(t, dir+"/pot/conf/pot.conf", "pot.cmd=/bin/true")
	write(t, dir+"/pot/m/etc/motd", "hello")
	change(dir + "/pot")
	run(t, "zfs", "snapshot", "-r", source.Snapshot("1605960000"))
	data := run(t, "zfs", "send", "-R", source.Snapshot("1605960000"))
	run(t, "zfs", "destroy", "-r", string(source))
	return data
}

func TestPotPackage(t *testing.T) {
	b := newZFS(t)
	ctx := t.Context()
	data := makePot(t, b, func(string) {})
	if err := b.Receive(ctx, "t", "", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Temporary(ctx); err != nil || len(got) != 1 || got[0] != "t" {
		t.Errorf("temporary %v, %v", got, err)
	}
	if err := b.Commit(ctx, "t", "pot", nil); err == nil || !strings.Contains(err.Error(), "child dataset m") {
		t.Errorf("commit as an ordinary image: %v", err)
	}
	if err := b.Commit(ctx, "t", "pot", map[string]string{"root": "m", "a": "b"}); err != nil {
		t.Fatal(err)
	}
	checkPot(t, b, "hello", "pot.cmd=/bin/true")
}

// checkPot tries an image that pot made, of the ID pot.
func checkPot(t *testing.T, b *ZFS, motd, conf string) {
	t.Helper()
	ctx := t.Context()
	if got := read(t, b.ImageRoot("pot")+"/etc/motd"); got != motd {
		t.Errorf("motd %q", got)
	}
	if got := read(t, b.ImageRoot("pot")+"/../conf/pot.conf"); !strings.Contains(got, conf) {
		t.Errorf("pot.conf %q", got)
	}
	root, err := b.Clone(ctx, "pot", "nja", CloneOptions{TaskID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/etc/motd"); got != motd || root != b.TaskRoot("nja") {
		t.Errorf("motd %q in %s", got, root)
	}
	write(t, root+"/etc/motd", "changed")
	images, err := b.Images(ctx)
	if err != nil || len(images) != 1 || len(images[0].Clones) != 1 || images[0].Clones[0] != "tasks/nja" || images[0].Props["root"] != "m" {
		t.Errorf("images %+v, %v", images, err)
	}
	if err := b.RemoveImage(ctx, "pot"); !errors.Is(err, ErrInUse) {
		t.Errorf("remove of an image with a clone: %v", err)
	}
	removeTask(t, b, "nja")
	if err := b.RemoveImage(ctx, "pot"); err != nil {
		t.Error(err)
	}
	wantEmpty(t, b)
}

// TestPotImage is about what pot itself exported.
func TestPotImage(t *testing.T) {
	if !pool.Kernel() {
		t.Skip("zfs-fuse is older than the ZFS that made the stream and can't receive it; FreeBSD and OpenZFS run this")
	}
	b := newZFS(t)
	if err := b.Receive(t.Context(), "t", "", bytes.NewReader(potStream(t))); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context(), "t", "pot", map[string]string{"root": "m"}); err != nil {
		t.Fatal(err)
	}
	run(t, "ls", "-lR", b.ImageRoot("pot"))
	if got := read(t, b.ImageRoot("pot")+"/../conf/pot.conf"); !strings.Contains(got, "pot.cmd=/bin/httpd") {
		t.Errorf("pot.conf %q", got)
	}
}

// TestHostilePot has a symlink where the child is to be mounted.
func TestHostilePot(t *testing.T) {
	b := newZFS(t)
	victim := t.TempDir()
	data := makePot(t, b, func(dir string) {
		run(t, "zfs", "unmount", string(b.parent.Child("pot").Child("m")))
		os.Remove(dir + "/m")
		if err := os.Symlink(victim, dir+"/m"); err != nil {
			t.Fatal(err)
		}
	})
	if err := b.Receive(t.Context(), "t", "", bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(t.Context(), "t", "pot", map[string]string{"root": "m"}); err == nil || !strings.Contains(err.Error(), "no folder m") {
		t.Errorf("commit: %v", err)
	}
	if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
		t.Errorf("something is mounted in the host's folder: %v, %v", entries, err)
	}
	if err := b.Discard(t.Context(), "t"); err != nil {
		t.Error(err)
	}
	wantEmpty(t, b)
}
