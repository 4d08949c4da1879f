package image

import (
	"errors"
	"io"
	"sync"
)

// ahead reads in a goroutine of its own, so that the network and the hash do not wait for the decompressor and the disk, nor
// these for them. It holds at most aheadBuffers times aheadSize bytes.
type ahead struct {
	full  chan chunk
	empty chan []byte
	stop  chan struct{}
	once  sync.Once
	rest  []byte
	whole []byte // the buffer that rest is of
	err   error
}

type chunk struct {
	data []byte
	err  error
}

const (
	aheadBuffers = 16
	aheadSize    = 256 << 10
)

func readAhead(r io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, aheadBuffers), empty: make(chan []byte, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

// fill ends with the first error, which is the last chunk.
func (a *ahead) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buffer []byte
		select {
		case buffer = <-a.empty:
		case <-a.stop:
			return
		}
		n, err := io.ReadAtLeast(r, buffer, aheadSize/2)
		if errors.Is(err, io.ErrUnexpectedEOF) && n > 0 {
			err = nil // the reader repeats its end
		}
		a.full <- chunk{buffer[:n], err}
		if err != nil {
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(a.rest) == 0 && !a.next() {
		return 0, a.err
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// next takes the next chunk that has bytes.
func (a *ahead) next() bool {
	for len(a.rest) == 0 {
		if a.whole != nil {
			a.empty <- a.whole
			a.whole = nil
		}
		if a.err != nil {
			return false
		}
		c, ok := <-a.full
		if !ok {
			a.err = io.ErrClosedPipe
			return false
		}
		a.rest, a.whole, a.err = c.data, c.data[:cap(c.data)], c.err
	}
	return true
}

// Close returns when the goroutine has ended; the reader below must have been made to return.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	for range a.full {
	}
	return nil
}
