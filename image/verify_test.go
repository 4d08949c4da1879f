package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// forge publishes a stream with a manifest that says the truth of it.
func forge(t *testing.T, dir string, m Manifest, plain []byte) {
	t.Helper()
	stream := compressed(t, m.Compression, plain)
	sum := sha256.Sum256(stream)
	m.Size, m.UncompressedSize, m.Digest = int64(len(stream)), int64(len(plain)), digestPrefix+hex.EncodeToString(sum[:])
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	ref := Reference{Name: m.Name, Tag: m.Tag}
	write(t, filepath.Join(dir, ref.fileName(".json")), data)
	write(t, filepath.Join(dir, ref.fileName(m.suffix())), stream)
}

func plainStream(t *testing.T, dir string, m Manifest) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, Reference{Name: m.Name, Tag: m.Tag}.fileName(m.suffix())))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	decoder, err := compressions[m.Compression].decoder(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	if _, err := out.ReadFrom(decoder); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestVerify has streams whose digest is right and which are no images: a pull and Verify say the same of them.
func TestVerify(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 100<<10), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{Limits: impatient})
		before := h.state(t)
		good := plainStream(t, dir, m)
		bad := map[string][]byte{
			"cut": good[:len(good)/2], "noise": bytes.Repeat([]byte("noise"), 1000), "longer": append(bytes.Clone(good), "x..."...),
		}
		if kind == "tar" {
			delete(bad, "longer") // what follows an archive's end is nobody's
			bad["a device"] = packed(t, tar.Header{Name: "dev/null", Typeflag: tar.TypeChar})
			bad["a way out"] = packed(t, tar.Header{Name: "../x", Typeflag: tar.TypeReg})
			bad["a link's way out"] = packed(t, tar.Header{Name: "x", Linkname: "../x", Typeflag: tar.TypeLink})
		}
		for name, plain := range bad {
			forge(t, dir, m, plain)
			_, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{})
			if err == nil {
				t.Fatalf("%s: it is pulled", name)
			}
			if _, verifyErr := Verify(t.Context(), r.ref(t, "web:1"), "", h.Store.options, nil); verifyErr == nil || verifyErr.Error() != err.Error() {
				t.Errorf("%s: a pull says\n\t%v, Verify\n\t%v", name, err, verifyErr)
			}
		}
		forge(t, dir, m, good)
		var last Progress
		got, err := Verify(t.Context(), r.ref(t, "web:1"), kind, Options{}, func(p Progress) { last = p })
		if err != nil || got.UncompressedSize != int64(len(good)) || last != (Progress{got.Size, got.Size}) {
			t.Errorf("the good one: %+v, %v, %+v", got, err, last)
		}
		if after := h.state(t); after != before {
			t.Errorf("the store has changed from\n%s to\n%s", before, after)
		}
	})
}

// TestVerifyDifference reads the manifests down to the whole image, on a host without a store.
func TestVerifyDifference(t *testing.T) {
	dir := t.TempDir()
	_, manifests := versions(t, dir)
	r := newRegistry(t, dir)
	m, err := Verify(t.Context(), r.ref(t, "web:3"), "", Options{}, nil)
	if err != nil || m.Digest != manifests["3"].Digest {
		t.Errorf("%+v, %v", m, err)
	}
	if r.count("/web_1.json") != 1 || r.count("/web_1.zfs.zst") != 0 {
		t.Errorf("asked for %v", r.gets)
	}
	remove(t, filepath.Join(dir, "web_1.json"))
	if _, err := Verify(t.Context(), r.ref(t, "web:3"), "", Options{Limits: impatient}, nil); err == nil || !strings.HasPrefix(err.Error(), "image web:3: below it, image web:1: the registry has no") {
		t.Errorf("without what it stands on: %v", err)
	}
}

func TestVerifyMirror(t *testing.T) {
	dir, m := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	r, mirror := newRegistry(t, t.TempDir()), newRegistry(t, dir)
	options := Options{Limits: impatient, Registry: RegistryOptions{Mirrors: map[string][]string{r.url: {mirror.url}}}}
	if got, err := Verify(t.Context(), r.ref(t, "web:1"), "tar", options, nil); err != nil || got.Digest != m.Digest || r.total() != 0 {
		t.Errorf("%+v, %v, %d requests to the registry", got, err, r.total())
	}
	if _, err := Verify(t.Context(), r.ref(t, "web:1"), "tar", Options{Limits: impatient}, nil); err == nil {
		t.Error("without the mirror it is good")
	}
	_, err := Verify(t.Context(), Reference{Name: "web", Tag: "1"}, "", Options{}, nil)
	if want := "image web:1: it is at no registry; write the registry's URL before the name"; err == nil || err.Error() != want {
		t.Errorf("without a URL: %v, want %s", err, want)
	}
}

func remove(t *testing.T, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}
