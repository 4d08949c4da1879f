package storage

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// sparseArchive has records of GNU tar's. Package tar writes none: they go through it under another name.
func sparseArchive(t *testing.T, records map[string]string, content string) []byte {
	t.Helper()
	h := &tar.Header{Name: "hole", Mode: 0o644, Size: int64(len(content)), Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	for key, value := range records {
		h.PAXRecords["SUN.sparse."+key] = value
	}
	data := archived(t, h, content)
	return bytes.ReplaceAll(data, []byte("SUN.sparse."), []byte("GNU.sparse."))
}

func archived(t *testing.T, h *tar.Header, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(h)
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// oldSparseArchive is of the format before PAX.
func oldSparseArchive(t *testing.T) []byte {
	t.Helper()
	const kind, realSize = 156, 483 // offsets in the header
	data := archived(t, &tar.Header{Name: "hole", Mode: 0o644, Format: tar.FormatGNU}, "")
	data[kind] = tar.TypeGNUSparse
	copy(data[realSize:], fmt.Sprintf("%011o", 1<<30))
	return checked(data)
}

// checked gives an archive's first header its checksum again.
func checked(data []byte) []byte {
	const checksum = 148
	copy(data[checksum:], "        ")
	sum := 0
	for _, b := range data[:512] {
		sum += int(b)
	}
	copy(data[checksum:], fmt.Sprintf("%06o\x00", sum))
	return data
}

func TestSparseArchives(t *testing.T) {
	d := newDirectory(t)
	for name, data := range map[string][]byte{
		"0.1": sparseArchive(t, map[string]string{"map": "0,0", "numblocks": "1", "size": "1073741824"}, ""),
		"1.0": sparseArchive(t, map[string]string{"major": "1", "minor": "0", "realsize": "1073741824", "name": "hole"}, "0\n"+strings.Repeat("\x00", 510)),
		"old": oldSparseArchive(t),
	} {
		if h, err := tar.NewReader(bytes.NewReader(data)).Next(); err != nil || h.Size != 1<<30 {
			t.Fatalf("%s: package tar reads %+v, %v; want a file of a gigabyte", name, h, err)
		}
		for _, err := range []error{d.Receive(t.Context(), "t", "", bytes.NewReader(data)), Judge("tar", false, bytes.NewReader(data))} {
			if err == nil || err.Error() != "archive: hole: a sparse file; pack it as a plain one, with bsdtar --no-read-sparse or tar without --sparse" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if left, err := d.Temporary(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestLongNames: one of a megabyte would make half as many folders within one another.
func TestLongNames(t *testing.T) {
	d := newDirectory(t)
	folders := strings.Repeat("d/", 200_000)
	for name, h := range map[string]*tar.Header{
		"name":     {Typeflag: tar.TypeDir, Name: folders, Mode: 0o755, Format: tar.FormatPAX},
		"whiteout": {Typeflag: tar.TypeReg, Name: folders + whiteout + "x", Mode: 0o644, Format: tar.FormatPAX},
		"link":     {Typeflag: tar.TypeLink, Name: folders[:200] + "d/x", Linkname: folders + "x", Mode: 0o644, Format: tar.FormatPAX},
	} {
		data := archived(t, h, "")
		for _, err := range []error{d.Receive(t.Context(), "t", "", bytes.NewReader(data)), Judge("tar", false, bytes.NewReader(data))} {
			if want := "archive: " + folders[:200] + "…: a path that is too long; 900 bytes are the most: give what is in it shorter names, or nest it less deeply"; err == nil || err.Error() != want {
				t.Errorf("%s: %.300v", name, err)
			}
		}
		if left, err := d.Temporary(t.Context()); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestExtractEnds is told to end within a file that goes on and on.
func TestExtractEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	head := archived(t, &tar.Header{Name: "file", Mode: 0o644, Format: tar.FormatGNU}, "")[:512]
	copy(head[124:], "\x80\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00") // its size, 2 to the 44th
	ended := make(chan error, 1)
	go func() {
		ended <- Extract(ctx, t.TempDir(), io.MultiReader(bytes.NewReader(checked(head)), pacedZeros{}))
	}()
	time.AfterFunc(50*time.Millisecond, cancel)
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it goes on")
	}
}

// pacedZeros are as many as are wanted, at a pace that fills no disk.
type pacedZeros struct{}

func (pacedZeros) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	clear(p)
	return len(p), nil
}
