package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A stream of zfs send is a row of records, each of headSize bytes and a payload, in the sender's byte order; see dmu_replay_record in OpenZFS's
// include/sys/zfs_ioctl.h. The records of one snapshot are a substream, from a begin to an end. zfs send -p and -R put substreams into a
// package: a begin with a list of names and properties, an end, the substreams, and one more end.
const (
	headSize   = 312
	beginMagic = 0x2F5bacbac
	maxPayload = 64 << 20 // ZFS's largest block is 16 MiB

	kindSubstream = 1
	kindPackage   = 2

	contentFileSystem = 2       // DMU_OST_ZFS; a volume is another
	featureRedacted   = 1 << 21 // DMU_BACKUP_FEATURE_REDACTED: with holes in it, and not to be mounted
	featureRaw        = 1 << 24 // DMU_BACKUP_FEATURE_RAW: encrypted, by a key that this host lacks
)

const (
	typeBegin = iota
	typeObject
	typeFreeObjects
	typeWrite
	typeFree
	typeEnd
	typeWriteByRef
	typeSpill
	typeWriteEmbedded
	typeObjectRange
	typeRedact
)

// record is the head of one. Its fields are at the offsets of the C structure.
type record struct {
	order binary.ByteOrder
	head  []byte
}

func (r record) byte(at int) byte     { return r.head[at] }
func (r record) uint32(at int) uint32 { return r.order.Uint32(r.head[at:]) }
func (r record) uint64(at int) uint64 { return r.order.Uint64(r.head[at:]) }
func (r record) kind() uint32         { return r.uint32(0) }

// payload is the number of bytes that follow the head.
func (r record) payload() (n uint64, err error) {
	round := func(n uint32) uint64 { return (uint64(n) + 7) &^ 7 }
	switch r.kind() {
	case typeBegin, typeEnd:
		n = uint64(r.uint32(4))
	case typeObject:
		if n = uint64(r.uint32(36)); n == 0 { // drr_raw_bonuslen
			n = round(r.uint32(28)) // drr_bonuslen
		}
	case typeWrite:
		n = r.uint64(32) // drr_logical_size
		if r.byte(50) != 0 {
			n = r.uint64(96) // drr_compressed_size
		}
	case typeSpill:
		if n = r.uint64(40); n == 0 { // drr_compressed_size
			n = r.uint64(16) // drr_length
		}
	case typeWriteEmbedded:
		n = round(r.uint32(52)) // drr_psize
	case typeFreeObjects, typeFree, typeWriteByRef, typeObjectRange, typeRedact:
	default:
		return 0, fmt.Errorf("the stream has a record of the unknown type %d; it is damaged, or of a later ZFS", r.kind())
	}
	if n > maxPayload {
		return 0, fmt.Errorf("the stream has a record of %d bytes; it is damaged", n)
	}
	return n, nil
}

// splitter takes an image's stream apart and passes on its substreams and nothing else: what would set a property on this host, mountpoint or
// sharenfs among them, goes no further than here, however old the host's ZFS is. An image is one snapshot of one file system; one of pot's may
// have a child, m.
type splitter struct {
	incremental bool
	// open begins a substream: of the image itself, or of its child. It ends with Close.
	open func(child string) (io.WriteCloser, error)

	in       *bufio.Reader
	order    binary.ByteOrder
	head     [headSize]byte
	image    string // the first substream's dataset, as its sender called it
	snapshot string
	child    string // the second's, below the first
}

var errCut = errors.New("the stream is cut short")

func (s *splitter) split(stream io.Reader) error {
	s.in = bufio.NewReaderSize(stream, 1<<20)
	first, err := s.next()
	if err != nil {
		return err
	}
	if first.kind() != typeBegin {
		return errors.New("the stream does not begin as one of zfs send does")
	}
	if first.uint64(16)&3 == kindPackage {
		err = s.readPackage(first)
	} else {
		err = s.readSubstream(first)
	}
	if err != nil {
		return err
	}
	if _, err := s.in.ReadByte(); err != io.EOF {
		return errors.Join(errors.New("the stream goes on after its end"), err)
	}
	return nil
}

// next reads a record's head, which is valid until the next call.
func (s *splitter) next() (record, error) {
	if _, err := io.ReadFull(s.in, s.head[:]); err != nil {
		return record{}, cut(err)
	}
	if s.order == nil {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if order.Uint64(s.head[8:]) == beginMagic {
				s.order = order
			}
		}
		if s.order == nil {
			return record{}, errors.New("not a stream of zfs send")
		}
	}
	return record{s.order, s.head[:]}, nil
}

func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errCut
	}
	return err
}

// readPackage leaves out what the package says of its substreams.
func (s *splitter) readPackage(begin record) error {
	if err := s.copy(io.Discard, begin); err != nil {
		return err
	}
	if end, err := s.next(); err != nil || end.kind() != typeEnd {
		return errors.Join(errors.New("the stream's list of contents has no end"), err)
	}
	for {
		r, err := s.next()
		switch {
		case err != nil:
			return err
		case r.kind() == typeEnd:
			if s.image == "" {
				return errors.New("the stream holds no snapshot")
			}
			return nil
		case r.kind() != typeBegin:
			return errors.New("the stream has a record outside of its snapshots; it is damaged")
		}
		if err := s.readSubstream(r); err != nil {
			return err
		}
	}
}

func (s *splitter) readSubstream(begin record) error {
	child, err := s.check(begin)
	if err != nil {
		return err
	}
	to, err := s.open(child)
	if err != nil {
		return err
	}
	// Not as a file: that would be copied to in pieces of its own choice.
	out := bufio.NewWriterSize(struct{ io.Writer }{to}, 1<<20)
	for r := begin; ; {
		if err := s.copy(out, r); err != nil {
			return err
		}
		if r.kind() == typeEnd {
			break
		}
		if r, err = s.next(); err != nil {
			return err
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return to.Close()
}

func (s *splitter) copy(to io.Writer, r record) error {
	n, err := r.payload()
	if err != nil {
		return err
	}
	if _, err := to.Write(r.head); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	_, err = io.CopyN(to, s.in, int64(n))
	return cut(err)
}

// check refuses a substream that an image does not have, and returns the name of the child that it is of.
func (s *splitter) check(begin record) (child string, err error) {
	name, _, _ := strings.Cut(string(begin.head[64:]), "\x00")
	dataset, snapshot, _ := strings.Cut(name, "@")
	version, contents, from := begin.uint64(16), begin.uint32(32), begin.uint64(48)
	switch {
	case version&3 != kindSubstream:
		return "", fmt.Errorf("the stream is of the unknown kind %d", version&3)
	case contents != contentFileSystem:
		return "", fmt.Errorf("the stream holds %s, which is not a file system", dataset)
	case version>>2&featureRaw != 0:
		return "", errors.New("the stream is encrypted; send it without -w")
	case version>>2&featureRedacted != 0:
		return "", errors.New("the stream is redacted; send it without --redact")
	case s.image == "" && from != 0 && !s.incremental:
		return "", errors.New("the stream is incremental, and its image names no parent")
	case s.image == "" && from == 0 && s.incremental:
		return "", errors.New("the stream is whole, though its image names a parent")
	case s.image == "":
		s.image, s.snapshot = dataset, snapshot
		return "", nil
	case dataset == s.image || dataset == s.child:
		return "", fmt.Errorf("the stream holds a second snapshot of %s, %s; an image is one", dataset, snapshot)
	case dataset != s.image+"/"+potRoot || snapshot != s.snapshot:
		return "", fmt.Errorf("the stream holds %s beside %s@%s; an image is one file system, or pot's and its child %s", name, s.image, s.snapshot, potRoot)
	}
	s.child = dataset
	return potRoot, nil
}
