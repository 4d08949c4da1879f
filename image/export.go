package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// ExportOptions say how an image is published.
type ExportOptions struct {
	// Compression is "zstd" unless it says otherwise.
	Compression string
	// Parent makes the stream the difference from that image, which has to be below the exported one.
	Parent *Image
	// Key signs the manifest, unless it is nil.
	Key *SecretKey
	// Progress is told of bytes before compression; Total is an estimate.
	Progress func(Progress)
}

// Export writes the image's files, NAME_TAG.json and its stream, into a folder that is or will be served. The manifest comes
// last: before, nobody finds the image.
func (s *Store) Export(ctx context.Context, img Image, dir string, opt ExportOptions) (Manifest, error) {
	m, err := s.export(ctx, img, dir, opt)
	if err != nil {
		return Manifest{}, fmt.Errorf("image %s: %w", img.name(), err)
	}
	return m, nil
}

func (s *Store) export(ctx context.Context, img Image, dir string, opt ExportOptions) (Manifest, error) {
	m := img.Manifest
	m.Format, m.Compression, m.Snapshot = s.backend.Format(), opt.Compression, "image"
	if m.Compression == "" {
		m.Compression = "zstd"
	}
	if m.Format == "tar" {
		m.Snapshot = ""
	}
	if img.Reference.Name == "" {
		return m, errors.New("it has no name; build or pull it again")
	}
	if err := oneOf("compression", m.Compression, compressionNames()); err != nil {
		return m, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m, err
	}
	if m.Parent = ""; opt.Parent != nil {
		if m.Format != "zfs" {
			return m, errors.New("only a ZFS dataset has a difference to send; export it whole")
		}
		id, err := s.published(ctx, *opt.Parent, dir)
		if err != nil {
			return m, err
		}
		m.Parent = opt.Parent.Reference.short() + "@" + id
		if img, err = s.onto(ctx, img, *opt.Parent); err != nil {
			return m, err
		}
	}
	have, err := folder(dir).get(ctx, img.Reference.fileName(".json"))
	if err == nil {
		err = checkSameName(have, img.Reference, dir)
	}
	if err != nil {
		return m, err
	}
	err = create(filepath.Join(dir, img.Reference.fileName(m.suffix())), func(f io.Writer) error {
		return s.writeStream(ctx, img, opt, &m, f)
	})
	if err != nil {
		return m, err
	}
	if err := writeManifest(dir, img.Reference, m, opt.Key); err != nil {
		return m, err
	}
	if img.Reference.Base != "" {
		return m, nil
	}
	// From now on the image built here is known by what was published of it, and need not be pulled.
	_, err = s.setName(ctx, img.ID, record{Reference: img.Reference.unpinned(), Manifest: m})
	return m, err
}

// published is the ID under which a parent is in the folder. One that who pulls the image could not have is refused.
func (s *Store) published(ctx context.Context, parent Image, dir string) (id string, err error) {
	name := parent.Reference.short()
	data, err := os.ReadFile(filepath.Join(dir, parent.Reference.fileName(".json")))
	if err != nil {
		return "", fmt.Errorf("its parent %s is not in %s; export that first", name, dir)
	}
	m, err := parseManifest(data, parent.Reference)
	if err == nil && m.ID() == parent.Pin() {
		return m.ID(), nil
	}
	if err == nil {
		err = s.checkSnapshot(ctx, parent, m, filepath.Join(dir, parent.Reference.fileName(m.suffix())))
	}
	if err != nil {
		return "", fmt.Errorf("its parent %s is another one in %s; export that again first: %w", name, dir, err)
	}
	return m.ID(), nil
}

// checkSnapshot tells whether a published stream is of the image's snapshot: each export of it has an ID of its own.
func (s *Store) checkSnapshot(ctx context.Context, img Image, m Manifest, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	decoder, err := compressions[m.Compression].decoder(ctx, f)
	if err != nil {
		return err
	}
	defer decoder.Close()
	theirs, err := storage.Identity(decoder, m.Parent != "")
	if err != nil {
		return err
	}
	ours, err := s.identity(ctx, img)
	if err == nil && ours != theirs {
		err = errors.New("its stream is of another snapshot")
	}
	return err
}

// identity reads the beginning of what the store would send.
func (s *Store) identity(ctx context.Context, img Image) (uint64, error) {
	r, w := io.Pipe()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		w.CloseWithError(s.backend.Send(ctx, "", img.ID, w))
	}()
	n, err := storage.Identity(r, false)
	r.Close()
	<-sent
	return n, err
}

// onto is the image as a clone of parent with what differs, which is img itself where it is one. Only such a one has a stream
// of the difference.
func (s *Store) onto(ctx context.Context, img, parent Image) (Image, error) {
	if slices.ContainsFunc(parent.Clones, func(c string) bool { return path.Base(c) == img.ID }) {
		return img, nil
	}
	id := builtID(hashOf("onto", parent.ID, img.ID))
	if id == img.ID || parent.ID == img.ID {
		return img, fmt.Errorf("it is its own parent; export it without")
	}
	err := s.step(ctx, id, parent.ID, func(ctx context.Context, root string) error {
		from, err := s.Root(ctx, img)
		if err != nil {
			return err
		}
		return mirrorTree(from, root)
	})
	if err != nil {
		return img, err
	}
	img.ID = id
	return img, nil
}

// writeStream sends, compresses and hashes in one pass, and notes in the manifest what came out.
func (s *Store) writeStream(ctx context.Context, img Image, opt ExportOptions, m *Manifest, w io.Writer) error {
	hash := sha256.New()
	compressed := &counter{w: io.MultiWriter(w, hash)}
	encoder, err := compressions[m.Compression].encoder(compressed)
	if err != nil {
		return err
	}
	plain := &counter{w: encoder, total: int64(img.Referenced), progress: opt.Progress}
	from := ""
	if opt.Parent != nil {
		from = opt.Parent.ID
	}
	if err := s.backend.Send(ctx, from, img.ID, plain); err != nil {
		encoder.Close()
		return err
	}
	if err := encoder.Close(); err != nil {
		return err
	}
	m.Size, m.UncompressedSize = compressed.bytes, plain.bytes
	m.Digest = digestPrefix + hex.EncodeToString(hash.Sum(nil))
	return nil
}

// writeManifest leaves no signature of an earlier manifest.
func writeManifest(dir string, ref Reference, m Manifest, key *SecretKey) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	signature := filepath.Join(dir, ref.fileName(signatureSuffix))
	if key == nil {
		err = os.Remove(signature)
		if errors.Is(err, os.ErrNotExist) {
			err = nil
		}
	} else {
		err = createWith(signature, key.sign(data))
	}
	return errors.Join(err, createWith(filepath.Join(dir, ref.fileName(".json")), data))
}

// Sign signs the manifest of an image that was exported into dir.
func Sign(dir string, ref Reference, key SecretKey) error {
	data, err := os.ReadFile(filepath.Join(dir, ref.fileName(".json")))
	if err != nil {
		return fmt.Errorf("image %s: %w; export it first", ref.short(), err)
	}
	if _, err := parseManifest(data, ref); err != nil {
		return fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return createWith(filepath.Join(dir, ref.fileName(signatureSuffix)), key.sign(data))
}

// counter counts what goes through it.
type counter struct {
	w        io.Writer
	bytes    int64
	total    int64
	progress func(Progress)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.bytes += int64(n)
	if c.progress != nil {
		c.progress(Progress{Bytes: c.bytes, Total: max(c.total, c.bytes)})
	}
	return n, err
}

// create writes a file that appears only when it is whole.
func create(path string, write func(io.Writer) error) (err error) {
	removeKilled(filepath.Dir(path))
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	// A registry's files are read by its server's user.
	if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// staleAfter is how long nothing is written to a file whose writer is taken for dead.
const staleAfter = time.Hour

// removeKilled removes what a killed export, or a push into the folder, was writing.
func removeKilled(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		hidden, ok := strings.CutPrefix(e.Name(), ".")
		of := strings.TrimSuffix(hidden, filepath.Ext(hidden))
		if info, err := e.Info(); ok && published.MatchString(of) && err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > staleAfter {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func createWith(path string, data []byte) error {
	return create(path, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}
