package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A pot is published as a replication stream (zfs send -R): a head, whose payload are properties and what there is, then one
// plain stream for each dataset, the pot's own with its configuration and its child "m" with the root file system. Only the
// plain streams are of use here: a receive of the whole would set on this host what the sender had set on his.
//
// A stream is a row of records: 312 bytes and a payload. See dmu_replay_record in OpenZFS's include/sys/zfs_ioctl.h.
const (
	recordSize  = 312
	beginMagic  = 0x2F5bacbac
	plainKind   = 1
	packageKind = 2
	maxPayload  = 32 << 20 // above the largest block

	recordBegin         = 0
	recordObject        = 1
	recordWrite         = 3
	recordEnd           = 5
	recordSpill         = 7
	recordWriteEmbedded = 8
	recordRedact        = 10
)

var errStream = errors.New("its stream is not one of pot export; export it again")

// sendRecord is the first part of one.
type sendRecord struct {
	head  [recordSize]byte
	order binary.ByteOrder
}

func (r *sendRecord) u32(at int) uint32 { return r.order.Uint32(r.head[at:]) }
func (r *sendRecord) u64(at int) uint64 { return r.order.Uint64(r.head[at:]) }
func (r *sendRecord) kind() uint32      { return r.u32(0) }

// payload is in bytes.
func (r *sendRecord) payload() (uint64, error) {
	var n uint64
	switch r.kind() {
	case recordBegin:
		n = uint64(r.u32(4))
	case recordObject:
		if n = uint64(r.u32(36)); n == 0 {
			n = roundUp(uint64(r.u32(28)))
		}
	case recordWrite:
		n = r.u64(32)
		if r.head[50] != 0 {
			n = r.u64(96)
		}
	case recordSpill:
		n = r.u64(16)
		if r.head[33] != 0 {
			n = r.u64(40)
		}
	case recordWriteEmbedded:
		n = roundUp(uint64(r.u32(52)))
	}
	if r.kind() > recordRedact || n > maxPayload {
		return 0, errStream
	}
	return n, nil
}

func roundUp(n uint64) uint64 { return (n + 7) &^ 7 }

// sendReader reads records. It learns the byte order from the first.
type sendReader struct {
	r     io.Reader
	order binary.ByteOrder
}

func (s *sendReader) next() (*sendRecord, error) {
	r := &sendRecord{order: s.order}
	if _, err := io.ReadFull(s.r, r.head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errStream
		}
		return nil, err
	}
	if s.order == nil {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if order.Uint64(r.head[8:]) == beginMagic && order.Uint32(r.head[:]) == recordBegin {
				s.order, r.order = order, order
			}
		}
		if s.order == nil {
			return nil, errStream
		}
	}
	return r, nil
}

// begin reads the first record of a stream and returns the dataset's name and whether it is a package of others.
func (s *sendReader) begin() (r *sendRecord, dataset string, isPackage bool, err error) {
	if r, err = s.next(); err != nil {
		return nil, "", false, err
	}
	if r.kind() != recordBegin || r.u64(8) != beginMagic {
		return nil, "", false, errStream
	}
	name, _, _ := bytes.Cut(r.head[56:recordSize], []byte{0})
	dataset, _, _ = strings.Cut(string(name), "@")
	kind := r.u64(16) & 3
	if kind != plainKind && kind != packageKind {
		return nil, "", false, errStream
	}
	return r, dataset, kind == packageKind, nil
}

// packageHead reads what is before the streams in a package.
func (s *sendReader) packageHead() (dataset string, err error) {
	head, dataset, isPackage, err := s.begin()
	if err != nil {
		return "", err
	}
	if !isPackage {
		return "", errors.New("its stream is of one dataset and not of a pot; export it with pot export")
	}
	n, err := head.payload()
	if err != nil {
		return "", err
	}
	if _, err := io.CopyN(io.Discard, s.r, int64(n)); err != nil {
		return "", err
	}
	if end, err := s.next(); err != nil || end.kind() != recordEnd {
		return "", errors.Join(err, errStream)
	}
	return dataset, nil
}

// plainReader is one plain stream, byte by byte as zfs receive wants it. It ends with the stream's last record.
type plainReader struct {
	s     *sendReader
	first *sendRecord // read already
	head  []byte      // of the current record, still to be read
	left  uint64      // of its payload
	ended bool
}

func (p *plainReader) Read(b []byte) (int, error) {
	for len(p.head) == 0 && p.left == 0 {
		if p.ended {
			return 0, io.EOF
		}
		if err := p.advance(); err != nil {
			return 0, noEOF(err)
		}
	}
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	n, err := p.s.r.Read(b[:min(uint64(len(b)), p.left)])
	p.left -= uint64(n)
	return n, noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (p *plainReader) advance() error {
	r := p.first
	if p.first = nil; r == nil {
		var err error
		if r, err = p.s.next(); err != nil {
			return err
		}
	}
	n, err := r.payload()
	if err != nil {
		return err
	}
	p.ended = r.kind() == recordEnd
	p.head, p.left = r.head[:], n
	return nil
}

// smallFiles reads a plain stream of a small dataset and gives its files' contents by path, for as far as it understands them:
// directories with few entries, files without compression.
func smallFiles(s *sendReader, first *sendRecord, limit int) (*smallTree, error) {
	t := &smallTree{order: s.order, objects: map[uint64][]byte{}}
	for r, size := first, 0; ; {
		n, err := r.payload()
		if err != nil {
			return nil, err
		}
		if size += int(n); size > limit {
			return nil, fmt.Errorf("the dataset beside its root has more than %d bytes; is it a pot?", limit)
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return nil, noEOF(err)
		}
		if r.kind() == recordEnd {
			return t, nil
		}
		if r.kind() == recordWrite && r.head[50] == 0 && r.u64(24) == uint64(len(t.objects[r.u64(8)])) {
			t.objects[r.u64(8)] = append(t.objects[r.u64(8)], payload...)
		}
		if r, err = s.next(); err != nil {
			return nil, noEOF(err)
		}
	}
}

// smallTree is what objects of a dataset hold. Object 1 is the master node, whose ROOT is the root directory.
type smallTree struct {
	order   binary.ByteOrder
	objects map[uint64][]byte
}

const masterNode = 1

// file is the content of a file, without what fills its last block.
func (t *smallTree) file(path ...string) (string, bool) {
	object, ok := t.entry(masterNode, "ROOT")
	for _, name := range path {
		if !ok {
			return "", false
		}
		object, ok = t.entry(object, name)
	}
	return strings.TrimRight(string(t.objects[object]), "\x00"), ok
}

// Micro ZAPs are what small directories are: a head of 64 bytes and entries of 64: a value, 8 bytes of others, a name.
const (
	microZap  = 1<<63 + 3
	zapEntry  = 64
	zapName   = 14
	objectBit = 48 // a directory's value has an object below it, a type above
)

func (t *smallTree) entry(directory uint64, name string) (uint64, bool) {
	data := t.objects[directory]
	if len(data) < zapEntry || t.order.Uint64(data) != microZap {
		return 0, false
	}
	for data = data[zapEntry:]; len(data) >= zapEntry; data = data[zapEntry:] {
		have, _, _ := bytes.Cut(data[zapName:zapEntry], []byte{0})
		if string(have) == name {
			return t.order.Uint64(data) & (1<<objectBit - 1), true
		}
	}
	return 0, false
}
