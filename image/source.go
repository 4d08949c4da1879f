package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// source is a registry's file as one reader, over as many responses as it takes. It hashes what it reads.
type source struct {
	ctx      context.Context
	client   *client
	url      string
	size     int64 // what the file must have; -1 where only the server says
	limit    int64 // what it may have
	before   int64 // bytes of the streams before it, for patience
	hash     hash.Hash
	also     io.Writer // another hash, or nil
	patience *patience
	stall    time.Duration
	report   func(bytes, size int64)

	offset    atomic.Int64
	validator string
	body      *watchedBody
	delimited bool  // body's end is known from a connection's
	broke     error // why the last response ended early
	err       error // the end, once it came
}

// restart says that the bytes so far are of no use: after what broke the stream off, the file has changed, or the server has
// no ranges.
type restart struct {
	error
	changed bool // what the manifest says may be of no use either
}

func (s *source) Read(p []byte) (int, error) {
	for s.err == nil {
		n, err := s.read(p)
		s.hash.Write(p[:n])
		if s.also != nil {
			s.also.Write(p[:n])
		}
		s.offset.Add(int64(n))
		if n > 0 {
			s.report(s.offset.Load(), s.size)
		}
		if err != nil {
			s.fail(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, s.err
}

// fail ends the stream, or ends this response only where the next may go on.
func (s *source) fail(err error) {
	s.drop()
	var again *restart
	switch {
	case errors.Is(err, io.EOF):
		s.err = io.EOF
	case s.ctx.Err() != nil:
		s.err = context.Cause(s.ctx)
	case !passing(err) || errors.As(err, &again) || s.client.others && s.before+s.offset.Load() == 0 || !s.patience.again(s.ctx, s.before+s.offset.Load()):
		s.err = err
	}
	s.broke = err
}

func (s *source) drop() {
	if s.body != nil {
		s.patience.came = s.body.came
		s.body.Close()
		s.body = nil
	}
}

// read returns io.EOF only where the file is whole in length.
func (s *source) read(p []byte) (int, error) {
	if s.body == nil {
		if err := s.open(); err != nil {
			return 0, err
		}
	}
	n, err := s.body.Read(p)
	if err := s.checkOffset(s.offset.Load() + int64(n)); err != nil {
		return 0, err
	}
	if err == nil || errors.Is(err, io.EOF) && (s.size < 0 || s.offset.Load()+int64(n) == s.size) {
		return n, err
	}
	if errors.Is(err, io.EOF) {
		if s.delimited {
			return n, s.cutShort(s.offset.Load() + int64(n))
		}
		err = io.ErrUnexpectedEOF
	}
	return n, fmt.Errorf("its stream broke off after %d of %d bytes: %w; see the registry's log", s.offset.Load()+int64(n), s.size, storage.Clipped(err))
}

func (s *source) checkOffset(offset int64) error {
	switch {
	case s.size >= 0 && offset > s.size:
		return &refusal{fmt.Errorf("its stream is too long: the registry's file has more than the %d bytes that the manifest says; publish it again", s.size)}
	case offset > s.limit:
		return &refusal{fmt.Errorf("its stream is too long: the registry's file has more than %d bytes, and this host accepts no more", s.limit)}
	}
	return nil
}

func (s *source) open() error {
	ctx, cancel := context.WithCancel(s.ctx)
	resp, err := s.client.get(ctx, s.url, s.offset.Load(), s.validator)
	if err != nil {
		cancel()
		return s.shorter(err)
	}
	s.body = watch(resp.Body, cancel, s.stall)
	s.delimited = resp.ProtoMajor > 1 || resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0
	switch now := validator(resp.Header); {
	case s.offset.Load() == 0:
		s.validator = now
	case now != s.validator && now != "":
		return &restart{s.broke, true}
	case !s.continues(resp):
		return &restart{s.broke, false}
	}
	return s.checkLength(resp)
}

// shorter explains the answer to a request for bytes that the file does not have.
func (s *source) shorter(err error) error {
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusRequestedRangeNotSatisfiable {
		return s.cutShort(s.offset.Load())
	}
	return err
}

func (s *source) cutShort(length int64) error {
	return &refusal{fmt.Errorf("its stream is cut short: the registry's file has %d bytes and the manifest says %d; publish it again", length, s.size)}
}

func (s *source) continues(resp *http.Response) bool {
	from := fmt.Sprintf("bytes %d-", s.offset.Load())
	return resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), from)
}

func (s *source) checkLength(resp *http.Response) error {
	if resp.ContentLength < 0 {
		return nil
	}
	whole := s.offset.Load() + resp.ContentLength
	if s.size < 0 {
		s.size = whole
	}
	switch {
	case whole == s.size:
		return s.checkOffset(whole)
	case whole < s.size:
		return s.cutShort(whole)
	}
	return &refusal{fmt.Errorf("its stream is too long: the registry's file has %d bytes and the manifest says %d; publish it again", whole, s.size)}
}

// validator is what If-Range takes (RFC 9110, 13.1.5): a strong ETag, else the date.
func validator(h http.Header) string {
	if etag := h.Get("Etag"); etag != "" && !strings.HasPrefix(etag, "W/") {
		return etag
	}
	return h.Get("Last-Modified")
}

func (s *source) Close() error {
	s.drop()
	return nil
}

// watchedBody ends a response that stops or trickles: one that makes its reader wait longer than stall for headway bytes.
// Time in which nobody reads does not count.
type watchedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
	stall  time.Duration
	alarm  *time.Timer
	slow   atomic.Bool
	waited time.Duration
	bytes  int
	came   time.Time // when the last headway was made
}

func watch(body io.ReadCloser, cancel context.CancelFunc, stall time.Duration) *watchedBody {
	w := &watchedBody{ReadCloser: body, cancel: cancel, stall: stall}
	w.alarm = time.AfterFunc(time.Hour, func() {
		w.slow.Store(true)
		cancel()
	})
	w.alarm.Stop()
	return w
}

func (w *watchedBody) Read(p []byte) (int, error) {
	began := time.Now()
	w.alarm.Reset(max(w.stall-w.waited, time.Millisecond))
	n, err := w.ReadCloser.Read(p)
	w.alarm.Stop()
	ended := time.Now()
	w.waited += ended.Sub(began)
	if w.bytes += n; w.bytes >= headway {
		w.bytes, w.waited, w.came = 0, 0, ended
	}
	if err != nil && w.slow.Load() {
		err = fmt.Errorf("it comes too slowly, less than %d KiB in %v", headway>>10, w.stall)
	}
	return n, err
}

func (w *watchedBody) Close() error {
	w.alarm.Stop()
	w.cancel()
	return w.ReadCloser.Close()
}
