package image

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"
)

// TestXz does not take as much memory as a stream likes.
func TestXz(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play ", 200000))
	var b bytes.Buffer
	w, err := encodeXz(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	plain := b.Bytes()
	// Of a dictionary's size there is one byte: 28 is for 64 MiB, 40 for 4 GiB.
	for name, c := range map[string]struct {
		stream   []byte
		want     int
		sentence string
	}{
		"as written":             {plain, len(text), ""},
		"twice":                  {append(bytes.Clone(plain), plain...), 2 * len(text), ""},
		"xz -9":                  {withDictionary(t, plain, 28), len(text), ""},
		"most":                   {withDictionary(t, plain, 40), 0, "Memory usage limit reached"},
		"most behind a good one": {append(bytes.Clone(plain), withDictionary(t, plain, 40)...), len(text), "Memory usage limit reached"},
		"cut short":              {plain[:len(plain)-20], len(text), "Unexpected end of input"},
	} {
		t.Run(name, func(t *testing.T) {
			reader, err := decodeXz(t.Context(), bytes.NewReader(c.stream))
			var data []byte
			if err == nil {
				defer reader.Close()
				data, err = io.ReadAll(reader)
			}
			if len(data) != c.want || c.sentence == "" && err != nil || c.sentence != "" && (err == nil || !strings.Contains(err.Error(), c.sentence)) {
				t.Errorf("%d bytes, %v; want %d, %q", len(data), err, c.want, c.sentence)
			}
		})
	}
}

func TestXzWithoutProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := decodeXz(t.Context(), strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "install xz") {
		t.Error(err)
	}
}

// withDictionary has a stream's first block say that it needs one of another size.
func withDictionary(t *testing.T, stream []byte, size byte) []byte {
	t.Helper()
	const start = 12
	s := bytes.Clone(stream)
	head := s[start : start+(int(s[start])+1)*4]
	at := bytes.Index(head, []byte{0x21, 1})
	if at < 0 {
		t.Fatalf("no LZMA2 in % x", head)
	}
	head[at+2] = size
	body := head[:len(head)-4]
	binary.LittleEndian.PutUint32(head[len(body):], crc32.ChecksumIEEE(body))
	return s
}
