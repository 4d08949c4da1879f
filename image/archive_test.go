package image

import (
	"archive/tar"
	"bytes"
	"path/filepath"
	"testing"
)

// compressed is a file of a tar archive.
func compressed(t *testing.T, compression string, archive []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := compressions[compression].encoder(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(archive); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packed(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		content := h.Name
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestDamagedArchive flips one bit of what an archive ends with, which nothing but a checksum tells.
func TestDamagedArchive(t *testing.T) {
	h := newHost(t, "tar", Options{})
	for _, compression := range []string{"zstd", "gzip", "xz"} {
		whole := compressed(t, compression, packed(t, tar.Header{Name: "a-file-of-some-name", Mode: 0o644, Typeflag: tar.TypeReg}))
		damages := map[string]int{"": -1}
		switch compression {
		case "zstd":
			damages["the checksum"] = len(whole) - 1
		case "gzip":
			damages["the checksum"] = len(whole) - 6
		default:
			damages["the index"] = len(whole) - 14
		}
		for what, at := range damages {
			data := bytes.Clone(whole)
			if at >= 0 {
				data[at] ^= 1
			}
			file := filepath.Join(t.TempDir(), "a.tar")
			write(t, file, data)
			_, err := h.Build(t.Context(), Reference{Name: "web", Tag: "1"}, file, BuildOptions{NoCache: true})
			if (err == nil) != (what == "") {
				t.Errorf("%s, damaged in %q: %v", compression, what, err)
			}
		}
	}
}
