package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// PushOptions say how an exported image reaches its registry.
type PushOptions struct {
	Registry RegistryOptions
	// Retry is how long the registry may fail before a push gives up; 10 s.
	Retry    time.Duration
	Progress func(Progress)

	stall time.Duration // how long the registry may take for an answer; 30 s
}

// Push brings an image that was exported into dir to the registry at base: by HTTP PUT, which WebDAV servers and image serve
// take, or into a folder that a file URL or a path names. The manifest goes last, and the signature of one before it goes away.
func Push(ctx context.Context, dir string, ref Reference, base string, opt PushOptions) (Manifest, error) {
	m, err := push(ctx, dir, ref, base, opt)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return m, nil
}

func push(ctx context.Context, dir string, ref Reference, base string, opt PushOptions) (Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, ref.fileName(".json")))
	if err != nil {
		return Manifest{}, fmt.Errorf("%w; export it first", err)
	}
	m, err := parseManifest(data, ref)
	if err != nil {
		return m, err
	}
	to, err := targetAt(base, opt)
	if err != nil {
		return m, err
	}
	signature := ref.fileName(signatureSuffix)
	_, err = os.Stat(filepath.Join(dir, signature))
	signed := err == nil
	files := []string{ref.fileName(m.suffix()), signature, ref.fileName(".json")}
	if !signed {
		files = slices.Delete(files, 1, 2)
	}
	p := pushing{target: to, dir: dir, tell: opt.Progress}
	if err := p.measure(files); err != nil {
		return m, err
	}
	stale, err := p.check(ctx, ref, m, base, signed)
	if err != nil {
		return m, err
	}
	manifest := len(files) - 1
	if err := p.put(ctx, files[:manifest]); err != nil {
		return m, err
	}
	if stale {
		if err := to.remove(ctx, signature); err != nil {
			return m, fmt.Errorf("%s there signs what was there before, and the registry does not remove it (%w); remove it there, or sign the image and push it again", signature, err)
		}
	}
	return m, p.put(ctx, files[manifest:])
}

// target is where images are pushed to.
type target interface {
	// get is a small file, nil where there is none.
	get(ctx context.Context, name string) ([]byte, error)
	put(ctx context.Context, name string, content *upload) error
	remove(ctx context.Context, name string) error
}

func targetAt(base string, opt PushOptions) (target, error) {
	if filepath.IsAbs(base) {
		return folder(base), nil
	}
	base = strings.TrimRight(base, "/")
	if err := errors.Join(refuseUserinfo(base), checkBase(base)); err != nil {
		return nil, err
	}
	if path, ok := folderOf(base); ok {
		return folder(path), nil
	}
	limits := Limits{Retry: opt.Retry, Stall: opt.stall}.withDefaults()
	c, err := newClient(opt.Registry, limits.Stall*storing)
	if err != nil {
		return nil, err
	}
	// Who refuses a file says so before its bytes are sent.
	c.http.Transport.(*http.Transport).ExpectContinueTimeout = time.Second
	return &collection{client: c, base: base, limits: limits}, nil
}

// pushing brings files of a folder to a target.
type pushing struct {
	target
	dir    string
	tell   func(Progress)
	before int64 // bytes of the files that are there
	total  int64
}

func (p *pushing) measure(files []string) error {
	for _, name := range files {
		info, err := os.Stat(filepath.Join(p.dir, name))
		if err != nil {
			return err
		}
		p.total += info.Size()
	}
	return nil
}

// check refuses what would break other images at the target, or what could not be pulled from it. stale tells of a signature
// there that would be none of this manifest.
func (p *pushing) check(ctx context.Context, ref Reference, m Manifest, base string, signed bool) (stale bool, err error) {
	have, err := p.get(ctx, ref.fileName(".json"))
	if err == nil {
		err = checkSameName(have, ref, base)
	}
	if err == nil {
		err = p.checkParent(ctx, m, base)
	}
	if err != nil || signed {
		return false, err
	}
	signature, err := p.get(ctx, ref.fileName(signatureSuffix))
	return signature != nil, err
}

// checkSameName refuses to write over another image's manifest: of a_b:c and a:b_c the files have the same names.
func checkSameName(have []byte, ref Reference, where string) error {
	var there Manifest
	if json.Unmarshal(have, &there) != nil || there.Name == "" || there.Name == ref.Name && there.Tag == ref.Tag {
		return nil
	}
	return fmt.Errorf("%s in %s is of the image %s, whose files would have the same names; give one of them another name or folder",
		ref.fileName(".json"), where, clip(there.Name+":"+there.Tag))
}

func (p *pushing) checkParent(ctx context.Context, m Manifest, base string) error {
	if m.Parent == "" {
		return nil
	}
	parent, err := ParseReference(m.Parent)
	if err != nil {
		return err
	}
	data, err := p.get(ctx, parent.fileName(".json"))
	if err != nil {
		return err
	}
	if data == nil {
		return fmt.Errorf("its parent %s is not at %s; push that first", parent.short(), base)
	}
	if there, err := parseManifest(data, parent); err != nil || there.ID() != parent.Digest {
		return fmt.Errorf("its parent %s is another one at %s; push that again first, or export this one again", parent.short(), base)
	}
	return nil
}

func (p *pushing) put(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := p.putFile(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (p *pushing) putFile(ctx context.Context, name string) error {
	f, err := os.Open(filepath.Join(p.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	u := &upload{content: f, size: info.Size(), tell: func(sent int64) {
		if p.tell != nil {
			p.tell(Progress{Bytes: p.before + sent, Total: p.total})
		}
	}}
	defer u.end()
	if err := p.target.put(ctx, name, u); err != nil {
		return err
	}
	p.before += u.size
	return nil
}

// upload is a file on its way. A redirect or a connection that drops has it begin again.
type upload struct {
	content io.ReaderAt
	size    int64

	mu      sync.Mutex // a transport may go on reading after it has the answer
	current *told      // the last reader
	tell    func(sent int64)
}

// reader reads the file from its beginning, and silences those before.
func (u *upload) reader() io.ReadCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.current = &told{Reader: io.NewSectionReader(u.content, 0, u.size), upload: u}
	return u.current
}

// end is how many bytes the last reader got to, which tells of no more.
func (u *upload) end() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current == nil {
		return 0
	}
	sent := u.current.sent
	u.current = nil
	return sent
}

// told tells how much of an upload was read.
type told struct {
	io.Reader
	*upload
	sent int64
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent += int64(n)
	if t.current == t && n > 0 {
		t.tell(t.sent)
	}
	return n, err
}

func (t *told) Close() error { return nil }

// folder is a target on this host.
type folder string

func (f folder) get(_ context.Context, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(f), name))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func (f folder) put(_ context.Context, name string, u *upload) error {
	if err := os.MkdirAll(string(f), 0o755); err != nil {
		return err
	}
	return create(filepath.Join(string(f), name), func(w io.Writer) error {
		_, err := io.Copy(w, u.reader())
		return err
	})
}

func (f folder) remove(_ context.Context, name string) error {
	return os.Remove(filepath.Join(string(f), name))
}

// collection is a folder at a registry that takes uploads: one of WebDAV (RFC 4918), or of whatever else knows PUT.
type collection struct {
	*client
	base   string
	limits Limits
}

func (c *collection) url(name string) string { return c.base + "/" + url.PathEscape(name) }

func (c *collection) get(ctx context.Context, name string) (data []byte, err error) {
	err = c.patiently(ctx, func() (int64, error) {
		ctx, cancel := context.WithTimeout(ctx, c.limits.Stall)
		defer cancel()
		data, err = c.small(ctx, c.url(name), c.limits.Manifest)
		return 0, err
	})
	if isNotFound(err) {
		return nil, nil
	}
	return data, err
}

// put makes the collection where it is missing.
func (c *collection) put(ctx context.Context, name string, u *upload) error {
	return c.patiently(ctx, func() (int64, error) {
		err := c.send(ctx, http.MethodPut, c.url(name), u)
		if lacksFolder(err) == nil {
			return u.end(), err
		}
		made := c.mkcol(ctx, c.base)
		err = c.send(ctx, http.MethodPut, c.url(name), u)
		if answer := lacksFolder(err); answer != nil {
			err = &refusal{fmt.Errorf("the registry has no folder for %s (%s); make it there, or push elsewhere", answer.url, answer.status)}
			if made != nil {
				err = &refusal{fmt.Errorf("%w; it does not make one: %w", err, made)}
			}
		}
		return u.end(), err
	})
}

// lacksFolder is the answer to a PUT into a collection that is not there: 409, of some servers 404.
func lacksFolder(err error) *statusError {
	var status *statusError
	if errors.As(err, &status) && (status.code == http.StatusNotFound || status.code == http.StatusConflict) {
		return status
	}
	return nil
}

func (c *collection) remove(ctx context.Context, name string) error {
	return c.patiently(ctx, func() (int64, error) { return 0, c.send(ctx, http.MethodDelete, c.url(name), nil) })
}

// mkcol makes a collection, and those above it that are missing.
func (c *collection) mkcol(ctx context.Context, base string) error {
	err := c.send(ctx, "MKCOL", base+"/", nil)
	var status *statusError
	switch {
	case errors.As(err, &status) && status.code == http.StatusMethodNotAllowed: // it is there: somebody was faster
		return nil
	case status == nil || status.code != http.StatusConflict:
		return err
	}
	u, parseErr := url.Parse(base)
	if parseErr != nil || path.Dir(u.Path) == u.Path {
		return err
	}
	u.Path, u.RawPath = path.Dir(u.Path), ""
	if err := c.mkcol(ctx, strings.TrimRight(u.String(), "/")); err != nil {
		return err
	}
	return c.send(ctx, "MKCOL", base+"/", nil)
}

// patiently tries again while the registry fails in passing. try returns how many bytes it got to.
func (c *collection) patiently(ctx context.Context, try func() (reached int64, err error)) error {
	patience := newPatience(c.limits.Retry)
	for {
		reached, err := try()
		if err == nil || ctx.Err() != nil || !passing(err) || !patience.again(ctx, reached) {
			return err
		}
	}
}

// storing is how many times longer than any other answer the one to an upload may take: a server may have to write gigabytes to its disk
// before.
const storing = 20

// send is a request that changes something at the registry, with a file or without.
func (c *collection) send(ctx context.Context, method, where string, u *upload) error {
	if u == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.limits.Stall)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, method, where, nil)
	if err != nil {
		return &refusal{err}
	}
	if u != nil {
		// A redirect asks for the body again.
		req.GetBody = func() (io.ReadCloser, error) { return u.reader(), nil }
		req.Body, req.ContentLength = u.reader(), u.size
		req.Header.Set("Content-Type", "application/octet-stream")
		req.Header.Set("Expect", "100-continue")
	}
	if err := c.authorize(req); err != nil {
		return &refusal{err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return noAnswer(req.URL, err)
	}
	defer resp.Body.Close()
	switch {
	case resp.Request.Method != method: // to any status but 307 and 308 a client asks on with GET
		return &refusal{fmt.Errorf("the registry redirects %s of %s to %s; give the URL that it ends at", method, redactURL(req.URL), redactURL(resp.Request.URL))}
	case resp.StatusCode/100 == 2:
		return nil
	case u != nil && (resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented):
		return &refusal{fmt.Errorf("the registry takes no uploads (%s); copy the files to what it serves", statusOf(resp))}
	}
	return &statusError{code: resp.StatusCode, status: cmp.Or(said(resp), statusOf(resp)), url: redactURL(req.URL), wayIn: c.options.WayIn}
}

// said is an answer's status with what a server says of it in plain text, if that is short.
func said(resp *http.Response) string {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 200))
	if line := oneLine(string(text)); err == nil && !strings.HasSuffix(resp.Status, line) && len(text) < 200 && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		return statusOf(resp) + ": " + storage.Clip(line, 200)
	}
	return ""
}
