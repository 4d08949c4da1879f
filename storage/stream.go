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

// name is the snapshot's that a begin is of, as its sender called it.
func (r record) name() string {
	name, _, _ := strings.Cut(string(r.head[56:]), "\x00")
	return name
}

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

// unpacker takes the one substream out of an image's stream, with or without a package around it, and passes on nothing else: what would set a
// property on this host, mountpoint or sharenfs among them, goes no further than here, however old the host's ZFS is.
type unpacker struct {
	records
	isPackage bool
	first     record // the substream's begin, until the next record is read
}

var errCut = errors.New("the stream is cut short")

// openStream reads up to the substream, and refuses what an image's does not begin with.
func openStream(stream io.Reader, incremental bool) (*unpacker, error) {
	// The buffer is for heads: payloads, which are larger, go past it.
	u := &unpacker{records: records{in: bufio.NewReaderSize(stream, 4096)}}
	first, err := u.next()
	if err != nil {
		return nil, err
	}
	if first.kind() == typeBegin && first.uint64(16)&3 == kindPackage {
		u.isPackage = true
		if err = u.skipList(first); err == nil {
			first, err = u.next()
		}
		if err != nil {
			return nil, err
		}
	}
	u.first = first
	return u, check(first, incremental)
}

// Identity is the number that ZFS gave the snapshot of an image's stream. All hosts that have received the snapshot know it by that, however
// the stream was compressed, and a stream of a difference bears it.
func Identity(stream io.Reader, incremental bool) (uint64, error) {
	u, err := openStream(stream, incremental)
	if err != nil {
		return 0, err
	}
	return u.first.uint64(40), nil
}

// skipList leaves out what a package says of its substreams.
func (s *records) skipList(list record) error {
	if err := s.copy(io.Discard, list); err != nil {
		return err
	}
	if end, err := s.next(); err != nil || end.kind() != typeEnd {
		return errors.Join(errors.New("the stream's list of contents has no end"), err)
	}
	return nil
}

// check refuses a substream that is not an image's.
func check(begin record, incremental bool) error {
	if begin.kind() != typeBegin {
		return errors.New("the stream does not begin as one of zfs send does")
	}
	version, contents, from := begin.uint64(16), begin.uint32(32), begin.uint64(48)
	switch {
	case version&3 != kindSubstream:
		return fmt.Errorf("the stream is of the unknown kind %d", version&3)
	case contents != contentFileSystem:
		return fmt.Errorf("the stream holds %s, which is not a file system", Clip(begin.name(), 80))
	case version>>2&featureRaw != 0:
		return errors.New("the stream is encrypted; send it without -w")
	case version>>2&featureRedacted != 0:
		return errors.New("the stream is redacted; send it without --redact")
	case from != 0 && !incremental:
		return errors.New("the stream is incremental, and its image names no parent")
	case from == 0 && incremental:
		return errors.New("the stream is whole, though its image names a parent")
	}
	return nil
}

// copyTo copies the substream, and sees to it that nothing follows.
func (u *unpacker) copyTo(w io.Writer) error {
	// Not as a file: that would be copied to in pieces of its own choice.
	out := bufio.NewWriterSize(struct{ io.Writer }{w}, 1<<20)
	for r := u.first; ; {
		if err := u.copy(out, r); err != nil {
			return err
		}
		if r.kind() == typeEnd {
			break
		}
		var err error
		if r, err = u.next(); err != nil {
			return err
		}
	}
	if err := u.end(); err != nil {
		return err
	}
	return out.Flush()
}

func (u *unpacker) end() error {
	if u.isPackage {
		switch end, err := u.next(); {
		case err != nil:
			return err
		case end.kind() == typeBegin:
			return fmt.Errorf("the stream holds %s as well; an image is one snapshot of one file system", Clip(end.name(), 80))
		case end.kind() != typeEnd:
			return errors.New("the stream has a record outside of its snapshots; it is damaged")
		}
	}
	if _, err := u.in.ReadByte(); err != io.EOF {
		return errors.Join(errors.New("the stream goes on after its end"), err)
	}
	return nil
}

// records reads a stream's. The byte order is the first one's.
type records struct {
	in    *bufio.Reader
	order binary.ByteOrder
	head  [headSize]byte
}

// next reads a record's head, which is valid until the next call.
func (s *records) next() (record, error) {
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

func (s *records) copy(to io.Writer, r record) error {
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
