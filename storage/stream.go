package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A stream of zfs send is a row of records, each of headSize bytes and a payload. The first, drr_begin, says what the stream is. It is in the
// sender's byte order. See dmu_replay_record in OpenZFS's include/sys/zfs_ioctl.h.
const (
	headSize   = 312
	beginMagic = 0x2F5bacbac

	substream = 1 // of one snapshot
	compound  = 2 // a list of streams, with properties: zfs send -p and -R make these

	fileSystem = 2       // DMU_OST_ZFS; a volume is another
	raw        = 1 << 24 // DMU_BACKUP_FEATURE_RAW: encrypted, by a key that this host lacks

)

// readHead reads the first record of a stream and refuses one that is anything but one snapshot's files. Properties, further snapshots and
// children come only in a compound stream: one that could set mountpoint or sharenfs on this host goes no further than here.
func readHead(stream io.Reader, incremental bool) ([]byte, error) {
	head := make([]byte, headSize)
	if _, err := io.ReadFull(stream, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the stream ends in its first record")
		}
		return nil, err
	}
	order, err := byteOrder(head)
	if err != nil {
		return nil, err
	}
	version, contents, from := order.Uint64(head[16:]), order.Uint32(head[32:]), order.Uint64(head[48:])
	switch kind := version & 3; {
	case kind == compound:
		return nil, errors.New("the stream holds properties, several snapshots or several datasets; an image is what zfs send prints without -p and -R")
	case kind != substream:
		return nil, fmt.Errorf("the stream is of the unknown kind %d", kind)
	case contents != fileSystem:
		return nil, errors.New("the stream is of a volume, not of a file system")
	case version>>2&raw != 0:
		return nil, errors.New("the stream is encrypted; send it without -w")
	case from != 0 && !incremental:
		return nil, errors.New("the stream is incremental, and its image names no parent")
	case from == 0 && incremental:
		return nil, errors.New("the stream is whole, though its image names a parent")
	}
	return head, nil
}

func byteOrder(head []byte) (binary.ByteOrder, error) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if order.Uint64(head[8:]) == beginMagic && order.Uint32(head) == 0 {
			return order, nil
		}
	}
	return nil, errors.New("not a stream of zfs send")
}
