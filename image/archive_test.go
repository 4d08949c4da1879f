package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
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

// TestBaseArchive builds from an archive as FreeBSD's bsdtar writes base.txz: ./ before the names, owners by number and name, file flags as
// PAX records, hard links, setuid programs, and directories that not everybody may enter.
func TestBaseArchive(t *testing.T) {
	flags := map[string]string{"SCHILY.fflags": "schg"}
	file := func(name string, mode int64, uid, gid int, pax map[string]string) tar.Header {
		return tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeReg, Name: name, Mode: mode, Uid: uid, Gid: gid, Uname: "root", Gname: "wheel", PAXRecords: pax}
	}
	dir := func(name string, mode int64, gid int) tar.Header {
		return tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeDir, Name: name, Mode: mode, Gid: gid, PAXRecords: map[string]string{"SCHILY.fflags": "uarch"}}
	}
	archive := packed(t, dir("./", 0o755, 0), dir("./bin/", 0o755, 0), dir("./var/", 0o755, 0), dir("./var/empty/", 0o555, 0), dir("./var/mail/", 0o1770, 6),
		file("./bin/rcp", 0o4555, 0, 0, flags), file("./bin/[", 0o555, 0, 0, nil), file("./libexec/ld-elf.so.1", 0o555, 0, 0, flags), file("./var/games", 0o2664, 0, 13, nil),
		tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeLink, Name: "./bin/test", Linkname: "./bin/["},
		tar.Header{Format: tar.FormatPAX, Typeflag: tar.TypeSymlink, Name: "./sys", Linkname: "usr/src/sys", Mode: 0o755})
	path := filepath.Join(t.TempDir(), "base.txz")
	write(t, path, compressed(t, "xz", archive))
	eachKind(t, func(t *testing.T, kind string) {
		h := newHost(t, kind, Options{})
		img, err := h.Build(t.Context(), Reference{Name: "base", Tag: "14"}, path, BuildOptions{OS: "freebsd", OSRelease: "14.3-RELEASE"})
		if err != nil {
			t.Fatal(err)
		}
		if img.Manifest.OS != "freebsd" || img.Manifest.OSRelease != "14.3-RELEASE" {
			t.Errorf("%+v", img.Manifest)
		}
		root := h.root(t, img)
		for name, want := range map[string]string{
			"bin/rcp": "ur-xr-xr-x 0 0 1", "bin/[": "-r-xr-xr-x 0 0 2", "bin/test": "-r-xr-xr-x 0 0 2", "libexec/ld-elf.so.1": "-r-xr-xr-x 0 0 1",
			"var/games": "grw-rw-r-- 0 13 1", "var/empty": "dr-xr-xr-x 0 0 2", "var/mail": "dtrwxrwx--- 0 6 2", "sys": "L--------- 0 0 1",
		} {
			info, err := os.Lstat(filepath.Join(root, name))
			if err != nil {
				t.Error(err)
				continue
			}
			s := stat(info)
			links := uint64(s.Nlink)
			if info.IsDir() {
				links = 2 // file systems count in their own ways
			}
			mode := info.Mode()
			if mode.Type() == fs.ModeSymlink {
				mode = fs.ModeSymlink // whose permissions are Linux's own
			}
			if got := fmt.Sprintf("%v %d %d %d", mode, s.Uid, s.Gid, links); got != want {
				t.Errorf("%s is %s, want %s", name, got, want)
			}
		}
		// What the flags would have kept from going goes.
		if err := h.Remove(t.Context(), img); err != nil {
			t.Error(err)
		}
	})
}
