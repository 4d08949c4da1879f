package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// PushOptions say how an exported image reaches its registry.
type PushOptions struct {
	Registry RegistryOptions
	Progress func(Progress)
}

// Push brings an image that was exported into dir to the registry at base: by HTTP PUT, which WebDAV servers and image serve
// take, or into a folder that a file URL or a path names. The manifest goes last.
func Push(ctx context.Context, dir string, ref Reference, base string, opt PushOptions) error {
	if err := push(ctx, dir, ref, base, opt); err != nil {
		return fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return nil
}

func push(ctx context.Context, dir string, ref Reference, base string, opt PushOptions) error {
	data, err := os.ReadFile(filepath.Join(dir, ref.fileName(".json")))
	if err != nil {
		return fmt.Errorf("%w; export it first", err)
	}
	m, err := parseManifest(data, ref)
	if err != nil {
		return err
	}
	files := []string{ref.fileName(m.suffix())}
	if _, err := os.Stat(filepath.Join(dir, ref.fileName(signatureSuffix))); err == nil {
		files = append(files, ref.fileName(signatureSuffix))
	}
	files = append(files, ref.fileName(".json"))
	send, err := sender(base, opt.Registry)
	if err != nil {
		return err
	}
	for _, name := range files {
		if err := pushFile(ctx, filepath.Join(dir, name), name, send, opt.Progress); err != nil {
			return err
		}
	}
	return nil
}

// send stores a file of that name and length.
type send func(ctx context.Context, name string, content io.Reader, length int64) error

func sender(base string, options RegistryOptions) (send, error) {
	if folder, ok := strings.CutPrefix(base, "file://"); ok || filepath.IsAbs(base) {
		return func(_ context.Context, name string, content io.Reader, _ int64) error {
			return create(filepath.Join(folder, name), func(w io.Writer) error {
				_, err := io.Copy(w, content)
				return err
			})
		}, nil
	}
	if err := errors.Join(refuseUserinfo(base), checkBase(strings.TrimRight(base, "/"))); err != nil {
		return nil, err
	}
	c, err := newClient(options)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, name string, content io.Reader, length int64) error {
		return c.put(ctx, strings.TrimRight(base, "/")+"/"+url.PathEscape(name), content, length)
	}, nil
}

func pushFile(ctx context.Context, path, name string, send send, progress func(Progress)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return send(ctx, name, &told{r: f, total: info.Size(), progress: progress}, info.Size())
}

// told tells how much of it was read.
type told struct {
	r        io.Reader
	bytes    int64
	total    int64
	progress func(Progress)
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.bytes += int64(n)
	if t.progress != nil && n > 0 {
		t.progress(Progress{Bytes: t.bytes, Total: t.total})
	}
	return n, err
}

// put stores a file at the registry.
func (c *client) put(ctx context.Context, file string, content io.Reader, length int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, file, content)
	if err != nil {
		return err
	}
	req.ContentLength = length
	req.Header.Set("Content-Type", "application/octet-stream")
	if err := c.authorize(req); err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return noAnswer(req.URL, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented:
		return fmt.Errorf("the registry takes no uploads (%s); copy the files to what it serves", resp.Status)
	}
	return &statusError{code: resp.StatusCode, status: resp.Status, url: redactURL(req.URL)}
}
