package image

import (
	"io"
	"sync"
)

// ahead reads in a goroutine of its own, so that the network and the hash, the decompressor and the disk do not wait for each
// other. It holds at most aheadBuffers times aheadSize bytes.
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
		case <-a.stop:
			return
		case buffer = <-a.empty:
		}
		select { // chosen at random above
		case <-a.stop:
			return
		default:
		}
		n, err := 0, error(nil)
		for n < aheadSize/2 && err == nil {
			var more int
			more, err = r.Read(buffer[n:])
			n += more
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

// Close returns when the goroutine has ended, after the reader below has returned.
func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	for range a.full {
	}
	return nil
}
