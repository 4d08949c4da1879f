package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// compressions are those that a manifest can name.
var compressions = map[string]compression{
	"zstd": {extension: ".zst", magic: "\x28\xb5\x2f\xfd", decoder: decodeZstd, encoder: encodeZstd},
	"xz":   {extension: ".xz", magic: "\xfd7zXZ\x00", decoder: decodeXz, encoder: encodeXz},
	"gzip": {extension: ".gz", magic: "\x1f\x8b", decoder: decodeGzip, encoder: encodeGzip},
	"none": {decoder: func(_ context.Context, r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil },
		encoder: func(w io.Writer) (io.WriteCloser, error) { return nopWriteCloser{w}, nil }},
}

// compression's decoder owns the reader only until Close, and keeps no goroutine that reads it after that.
type compression struct {
	extension string
	magic     string
	decoder   func(context.Context, io.Reader) (io.ReadCloser, error)
	encoder   func(io.Writer) (io.WriteCloser, error)
}

func compressionNames() []string {
	names := make([]string, 0, len(compressions))
	for name := range compressions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// compressionOf tells by a file's first bytes.
func compressionOf(head []byte) string {
	for name, c := range compressions {
		if c.magic != "" && bytes.HasPrefix(head, []byte(c.magic)) {
			return name
		}
	}
	return "none"
}

// maxWindow bounds the memory that a stream can make its decoder use; zstd's levels up to 19 need 8 MiB.
const maxWindow = 32 << 20

// decodeZstd leaves the frame's checksum alone: what a pull decodes has a digest, and a checksum of 32 bits would add nothing to that.
func decodeZstd(_ context.Context, r io.Reader) (io.ReadCloser, error) {
	return newZstd(r, zstd.IgnoreChecksum(true))
}

func newZstd(r io.Reader, more ...zstd.DOption) (io.ReadCloser, error) {
	options := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)}
	decoder, err := zstd.NewReader(r, append(options, more...)...)
	if err != nil {
		return nil, err
	}
	return decoder.IOReadCloser(), nil
}

func encodeZstd(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithWindowSize(8<<20))
}

func decodeGzip(_ context.Context, r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }

func encodeGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }

// decodeXz takes the system's xz, several times as fast as those in Go and the only one that limits what memory a stream can take.
func decodeXz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	path, err := exec.LookPath("xz")
	if err != nil {
		return nil, errors.New("it is compressed with xz, which this host has no program for; install xz (Debian: xz-utils), or publish it with zstd")
	}
	return startDecoder(ctx, r, path, "--decompress", "--stdout", "--memlimit-decompress=256MiB")
}

func encodeXz(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }

// processDecoder is a program that decompresses from its input to its output.
type processDecoder struct {
	cmd    *exec.Cmd
	stdout io.ReadCloser
	stderr bytes.Buffer
	kill   context.CancelFunc
	ended  error // io.EOF, or what went wrong; nil while it runs
}

func startDecoder(ctx context.Context, r io.Reader, program string, args ...string) (io.ReadCloser, error) {
	ctx, kill := context.WithCancel(ctx)
	d := &processDecoder{cmd: exec.CommandContext(ctx, program, args...), kill: kill}
	d.cmd.Stdin = r
	d.cmd.Stderr = &d.stderr
	var err error
	if d.stdout, err = d.cmd.StdoutPipe(); err == nil {
		err = d.cmd.Start()
	}
	if err != nil {
		kill()
		return nil, err
	}
	return d, nil
}

func (d *processDecoder) Read(p []byte) (int, error) {
	if d.ended != nil {
		return 0, d.ended
	}
	n, err := d.stdout.Read(p)
	if err != nil {
		d.end()
		err = d.ended
	}
	return n, err
}

func (d *processDecoder) end() {
	d.ended = io.EOF
	if err := d.cmd.Wait(); err != nil {
		d.ended = fmt.Errorf("%s: %w: %s", d.cmd.Path, err, oneLine(d.stderr.String()))
	}
}

func (d *processDecoder) Close() error {
	d.kill()
	if d.ended == nil {
		d.end()
		d.ended = errors.New("closed")
	}
	return nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// oneLine makes a command's words part of a sentence.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
