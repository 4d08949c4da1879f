package storage

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode"
)

// TestHostileTexts has streams whose names are made for who reads an error: long, or to be obeyed by a terminal.
func TestHostileTexts(t *testing.T) {
	const escape = "\x1b]0;x\a\x9b31m\n"
	long := escape + strings.Repeat("x", 1000<<10)
	archived := func(h tar.Header) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return out.Bytes()
	}
	order := binary.LittleEndian
	begin := func(kind, contents uint64) []byte {
		return made(order, typeBegin, 0, map[int]uint64{8: beginMagic, 16: kind, 32: contents}, "pool/"+escape+strings.Repeat("x", 200))
	}
	end := made(order, typeEnd, 0, nil, "")
	pot := bytes.ReplaceAll(potStream(t), []byte("/m@"), []byte("/\x1b@"))
	extract := func(b []byte) error { return Extract(t.Context(), t.TempDir(), bytes.NewReader(b)) }
	judge := func(b []byte) error { return Judge("tar", false, bytes.NewReader(b)) }
	open := func(b []byte) error { _, err := unpacked(b, false); return err }
	openPot := func(b []byte) error { _, err := OpenPot(bytes.NewReader(b)); return err }
	for _, c := range []struct {
		what, sentence string
		read           func([]byte) error
		stream         []byte
	}{
		{"a long name", "a path that is too long", extract, archived(tar.Header{Name: long, Typeflag: tar.TypeReg})},
		{"a long target", "has a .. that leaves its root", extract, archived(tar.Header{Name: "x", Linkname: "../" + long[:maxPath/2], Typeflag: tar.TypeLink})},
		{"a device of a long name", "an image holds no devices", extract, archived(tar.Header{Name: "x/" + escape, Typeflag: tar.TypeChar})},
		{"a long name of a device, judged", "an image holds no devices", judge, archived(tar.Header{Name: long[:maxPath], Typeflag: tar.TypeChar})},
		{"a long target, judged", "has a .. that leaves its root", judge, archived(tar.Header{Name: "x", Linkname: "../" + long[:maxPath/2], Typeflag: tar.TypeLink})},
		{"a volume", "is not a file system", open, begin(kindSubstream, 3)},
		{"two", "an image is one snapshot", open, bytes.Join([][]byte{begin(kindPackage, contentFileSystem), end, begin(kindSubstream, contentFileSystem), end, begin(kindSubstream, contentFileSystem)}, nil)},
		{"a pot", "which is not a pot's", openPot, pot},
	} {
		err := c.read(c.stream)
		if err == nil || !strings.Contains(err.Error(), c.sentence) || len(err.Error()) > 1500 {
			t.Errorf("%s: %.2000v, want %s", c.what, err, c.sentence)
			continue
		}
		if i := strings.IndexFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("%s: %q", c.what, err)
		}
	}
}
