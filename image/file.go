package image

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path"
	"syscall"
)

// files is the host's as file URLs name them: regular ones only. A FIFO would be waited for until somebody writes to it, and a device may
// have no end.
type files struct{}

func (files) Open(name string) (http.File, error) {
	f, err := os.OpenFile(path.Clean("/"+name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
