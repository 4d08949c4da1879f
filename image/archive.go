package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// archive is a tar archive on this host, compressed or not.
type archive struct {
	io.Reader
	file    *os.File
	decoder io.Closer
}

func openArchive(ctx context.Context, path string) (*archive, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewReaderSize(f, 64<<10)
	head, err := buffered.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		f.Close()
		return nil, err
	}
	decoder, err := decodeArchive(ctx, compressionOf(head), buffered)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is neither a folder nor a tar archive: %w", path, err)
	}
	return &archive{Reader: decoder, file: f, decoder: decoder}, nil
}

// decodeArchive checks what a pull, which has a digest, leaves alone: zstd's checksums.
func decodeArchive(ctx context.Context, compression string, r io.Reader) (io.ReadCloser, error) {
	if compression != "zstd" {
		return compressions[compression].decoder(ctx, r)
	}
	return newZstd(r)
}

func (a *archive) Close() error {
	return errors.Join(a.decoder.Close(), a.file.Close())
}

// hash is of the file as it is, which is faster than of what is in it.
func (a *archive) hash(h hash.Hash) error {
	_, err := io.Copy(h, io.NewSectionReader(a.file, 0, 1<<62))
	return err
}

func extract(ctx context.Context, source, dst string) error {
	a, err := openArchive(ctx, source)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := storage.Extract(ctx, dst, a); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return nil
}
