package image

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// RegistryOptions say how registries are reached.
type RegistryOptions struct {
	// Mirrors has for a base URL others that are tried before it, in order.
	Mirrors map[string][]string
	// CAFile is a PEM file of certificate authorities that are trusted beside the system's.
	CAFile string
	// Proxy is the URL of an HTTP proxy; "" for what HTTP_PROXY, HTTPS_PROXY and NO_PROXY say.
	Proxy string
	// AuthFile holds credentials as `podman login` and `docker login` write them. Only its owner may be able to read it. It is
	// read for each pull.
	AuthFile string
	// WayIn says in messages where a person puts credentials; "" stands for the plugin's configuration.
	WayIn string
	// Auth are credentials that go before those of AuthFile, by HOST[:PORT][/PATH] as there. They are sent over TLS only, or to
	// keys that begin with http://.
	Auth map[string]Credential
}

// client speaks to registries: static HTTP servers, and folders as file URLs.
type client struct {
	http    *http.Client
	options RegistryOptions
	others  bool // are left to be asked: what does not begin here is not tried again
}

// answerTime is how long a registry may take to begin an answer to whoever asks for a file.
const answerTime = 30 * time.Second

// newClient has a registry begin each answer within the time given, once the request is sent.
func newClient(options RegistryOptions, answer time.Duration) (*client, error) {
	roots, err := authorities(options.CAFile)
	if err != nil {
		return nil, err
	}
	proxy := http.ProxyFromEnvironment
	if options.Proxy != "" {
		u, err := url.Parse(options.Proxy)
		if err != nil || u.Host == "" {
			return nil, errors.New("the proxy's URL in the plugin's configuration cannot be parsed; write http://host:port")
		}
		proxy = http.ProxyURL(u)
	}
	transport := &http.Transport{
		Proxy:                 proxy,
		TLSClientConfig:       &tls.Config{RootCAs: roots},
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: answer,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
		// Digest, length and ranges are of the bytes as they are published.
		DisableCompression: true,
		ReadBufferSize:     64 << 10,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, req *http.Request, resp *http.Response) error {
			if resp.StatusCode == http.StatusProxyAuthRequired {
				return &statusError{code: resp.StatusCode, status: statusOf(resp), url: "https://" + req.Host}
			}
			return nil
		},
	}
	transport.RegisterProtocol("file", http.NewFileTransport(files{}))
	c := &client{options: options}
	c.http = &http.Client{Transport: transport, CheckRedirect: c.checkRedirect}
	return c, nil
}

// authorities are nil, the system's, without a file.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the certificate authorities cannot be read: %w; see the plugin's configuration", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s has no certificate in PEM; see the plugin's configuration", file)
	}
	return pool, nil
}

const maxRedirects = 5

// checkRedirect keeps a server from sending us to the host's own files or away from TLS, and credentials to another server.
func (c *client) checkRedirect(req *http.Request, via []*http.Request) error {
	switch from := via[len(via)-1].URL; {
	case len(via) > maxRedirects:
		return &refusal{fmt.Errorf("the registry redirects more than %d times, last to %s; give the URL that it ends at", maxRedirects, redactURL(req.URL))}
	case from.Scheme != req.URL.Scheme && req.URL.Scheme != "https":
		return &refusal{fmt.Errorf("the registry redirects from %s to %s, which is less safe; give the URL that it ends at", redactURL(from), redactURL(req.URL))}
	}
	req.Header.Del("Authorization")
	return c.authorize(req)
}

// refusal is an answer that no further try will change.
type refusal struct{ error }

func (r *refusal) Unwrap() error { return r.error }

// statusError is an answer of the registry's other than the file.
type statusError struct {
	code   int
	status string
	url    string
	wayIn  string
}

// statusOf is an answer's status, whose phrase is the server's choice.
func statusOf(resp *http.Response) string { return storage.Clip(resp.Status, 80) }

func (e *statusError) Error() string {
	switch e.code {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Sprintf("the registry has no %s (%s); check name and tag, or publish the image", e.url, e.status)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Sprintf("the registry refuses %s (%s); %s", e.url, e.status, cmp.Or(e.wayIn, "put credentials for it into the plugin's configuration"))
	case http.StatusProxyAuthRequired:
		return fmt.Sprintf("the proxy refuses %s (%s); put its user and password into its URL", e.url, e.status)
	}
	return fmt.Sprintf("the registry answers %s to %s; see the registry's log", e.status, e.url)
}

// get asks for a file from offset on; validator is the ETag or date of the part that is here already, or "". The answer's
// status is 200 or, for an offset, 206 or 200.
func (c *client) get(ctx context.Context, file string, offset int64, validator string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, file, nil)
	if err != nil {
		return nil, &refusal{err}
	}
	req.Header.Set("User-Agent", "nomad-driver-jail")
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		if validator != "" {
			req.Header.Set("If-Range", validator)
		}
	}
	if err := c.authorize(req); err != nil {
		return nil, &refusal{err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, noAnswer(req.URL, err)
	}
	if resp.StatusCode != http.StatusOK && (resp.StatusCode != http.StatusPartialContent || offset == 0) {
		resp.Body.Close()
		return nil, &statusError{code: resp.StatusCode, status: statusOf(resp), url: redactURL(req.URL), wayIn: c.options.WayIn}
	}
	return resp, nil
}

// noAnswer says why there is no answer, without net/http's repetition of the URL.
func noAnswer(u *url.URL, err error) error {
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	var refused *refusal
	if errors.As(err, &refused) {
		return refused
	}
	var status *statusError
	if errors.As(err, &status) {
		return status
	}
	err = storage.Clipped(err) // what is no HTTP is in it
	where := u.Scheme + "://" + u.Host
	var unknown x509.UnknownAuthorityError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown):
		return &refusal{fmt.Errorf("the certificate of the registry %s is not trusted (%w); name its authority's file in the plugin's configuration", where, err)}
	case errors.As(err, &certificate):
		return &refusal{fmt.Errorf("the certificate of the registry %s is wrong: %w; give the registry another one", where, err)}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // no file's end
	}
	return fmt.Errorf("the registry %s does not answer: %w; check the URL, and that it runs", where, err)
}

// passing tells whether the same request may succeed later.
func passing(err error) bool {
	var refused *refusal
	if errors.As(err, &refused) {
		return false
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout
	}
	return true
}

// small reads a whole file of at most limit bytes.
func (c *client) small(ctx context.Context, file string, limit int64) ([]byte, error) {
	resp, err := c.get(ctx, file, 0, "")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the registry's %s ended early: %w; see the registry's log", redactURL(resp.Request.URL), storage.Clipped(err))
	case int64(len(data)) > limit:
		return nil, &refusal{fmt.Errorf("the registry's %s is larger than %d bytes; it is none of ours", redactURL(resp.Request.URL), limit)}
	}
	return data, nil
}
