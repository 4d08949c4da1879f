package storage

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
)

// Judge reads an image's stream of that format as a store's Receive does, and keeps nothing of it.
func Judge(format string, incremental bool, stream io.Reader) error {
	if format == "tar" {
		return judgeArchive(stream)
	}
	u, err := openStream(stream, incremental)
	if err != nil {
		return err
	}
	return u.copyTo(io.Discard)
}

// judgeArchive leaves to Extract what only a root can tell, such as a link to a file that is not there.
func judgeArchive(stream io.Reader) error {
	end := &zeros{Reader: stream}
	reader := tar.NewReader(end)
	for {
		h, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		err = judgeEntry(h)
		if err == nil {
			_, err = io.Copy(io.Discard, reader)
		}
		if err != nil {
			return fmt.Errorf("archive: %s: %w", Clip(h.Name, 200), Clipped(err))
		}
	}
	if _, err := io.Copy(io.Discard, end); err != nil {
		return err
	}
	if end.run < 2*512 {
		return errors.New("archive: it is cut short")
	}
	return nil
}

func judgeEntry(h *tar.Header) error {
	if isLong(h) {
		return errLongPath
	}
	_, err := inside(h.Name)
	if sparse(h) {
		return errSparse
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeXGlobalHeader:
	case tar.TypeLink:
		_, linkErr := inside(h.Linkname)
		err = errors.Join(err, linkErr)
	default:
		return errors.New("neither a file nor a directory nor a link; an image holds no devices and no FIFOs")
	}
	return err
}
