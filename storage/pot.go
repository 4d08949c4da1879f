package storage

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Pot is what pot export sends (zfs send -R), taken apart as it is read: a file system with conf/pot.conf in it, and its child m, which is the
// root file system. An image needs the latter only, as the plain stream that Receive takes, whole or incremental.
type Pot struct {
	Conf    string // the text of pot.conf
	Created time.Time
	Root    io.Reader // the stream of the root; after its end there must be no other

	records
	ended bool
	rest  []byte // of the current record's head
	left  uint64 // of its payload
}

// potRoot is the child that is a pot's root file system.
const potRoot = "m"

// maxPotConf is for all of the file system around the root, in bytes.
const maxPotConf = 4 << 20

var errNoPot = errors.New("the stream is not one of pot export; export it again")

// OpenPot reads a stream up to the root file system.
func OpenPot(stream io.Reader) (*Pot, error) {
	p := &Pot{records: records{in: bufio.NewReaderSize(stream, 1<<20)}}
	name, err := p.readList()
	if err != nil {
		return nil, err
	}
	if p.Conf, err = p.readConf(name); err != nil {
		return nil, err
	}
	root, err := p.begin()
	if err != nil {
		return nil, err
	}
	switch dataset, _, _ := strings.Cut(root.name(), "@"); dataset {
	case name:
		return nil, errors.New("the stream has several snapshots; export it with pot export -A")
	case name + "/" + potRoot:
	default:
		return nil, fmt.Errorf("the stream has the dataset %s, which is not a pot's", Clip(dataset, 80))
	}
	p.Created = time.Unix(int64(root.uint64(24)), 0).UTC()
	p.Root = rootReader{p}
	return p, p.open(root)
}

// begin reads the first record of a substream.
func (p *Pot) begin() (record, error) {
	r, err := p.next()
	if err == nil && (r.kind() != typeBegin || r.uint64(16)&3 != kindSubstream) {
		err = errNoPot
	}
	return r, err
}

// readList reads what the package says of its substreams, and returns the outer file system's name.
func (p *Pot) readList() (string, error) {
	list, err := p.next()
	if err != nil {
		return "", err
	}
	if list.kind() != typeBegin || list.uint64(16)&3 != kindPackage {
		return "", errors.New("the stream is of one dataset and not of a pot; export it with pot export")
	}
	name, _, _ := strings.Cut(list.name(), "@")
	return name, p.skipList(list)
}

// readConf reads the substream of the outer file system.
func (p *Pot) readConf(name string) (string, error) {
	r, err := p.begin()
	if err != nil {
		return "", err
	}
	if dataset, _, _ := strings.Cut(r.name(), "@"); dataset != name {
		return "", errNoPot
	}
	objects := objects{order: p.order, data: map[uint64][]byte{}}
	for size := uint64(0); r.kind() != typeEnd; {
		n, err := r.payload()
		if err != nil {
			return "", err
		}
		if size += n; size > maxPotConf {
			return "", fmt.Errorf("the stream has more than %d bytes around the root file system; is it of a pot?", maxPotConf)
		}
		if err := objects.read(r, p.in, n); err != nil {
			return "", err
		}
		if r, err = p.next(); err != nil {
			return "", err
		}
	}
	conf, ok := objects.file("conf", "pot.conf")
	if !ok {
		return "", errors.New("the stream has no conf/pot.conf; export it with pot export")
	}
	return conf, nil
}

// objects are what a small file system's stream writes: those of which the beginning is there, without holes or compression.
type objects struct {
	order binary.ByteOrder
	data  map[uint64][]byte
}

func (o objects) read(r record, in io.Reader, n uint64) error {
	object, at, plain := r.uint64(8), r.uint64(24), r.kind() == typeWrite && r.byte(50) == 0
	payload := make([]byte, n)
	if _, err := io.ReadFull(in, payload); err != nil {
		return cut(err)
	}
	if plain && at == uint64(len(o.data[object])) {
		o.data[object] = append(o.data[object], payload...)
	}
	return nil
}

// Object 1 is the master node, whose entry ROOT is the root directory. Small directories are micro ZAPs (zap_impl.h): a head and entries of 64
// bytes each, an entry being a value, 6 bytes more and a name; a directory's value has a type above the object's number.
const (
	masterNode = 1
	microZap   = 1<<63 + 3
	zapEntry   = 64
	zapName    = 14
	objectMask = 1<<48 - 1
)

// file is a file's content without what fills its last block.
func (o objects) file(path ...string) (string, bool) {
	object, ok := o.entry(masterNode, "ROOT")
	for _, name := range path {
		if !ok {
			return "", false
		}
		object, ok = o.entry(object, name)
	}
	return strings.TrimRight(string(o.data[object]), "\x00"), ok
}

func (o objects) entry(directory uint64, name string) (uint64, bool) {
	data := o.data[directory]
	if len(data) < zapEntry || o.order.Uint64(data) != microZap {
		return 0, false
	}
	for data = data[zapEntry:]; len(data) >= zapEntry; data = data[zapEntry:] {
		have, _, _ := bytes.Cut(data[zapName:zapEntry], []byte{0})
		if string(have) == name {
			return o.order.Uint64(data) & objectMask, true
		}
	}
	return 0, false
}

// rootReader reads the root's substream, and then sees to it that the package ends.
type rootReader struct{ *Pot }

func (p rootReader) Read(b []byte) (int, error) {
	for len(p.rest) == 0 && p.left == 0 {
		if p.ended {
			return 0, p.end()
		}
		r, err := p.next()
		if err == nil {
			err = p.open(r)
		}
		if err != nil {
			return 0, err
		}
	}
	if len(p.rest) > 0 {
		n := copy(b, p.rest)
		p.Pot.rest = p.rest[n:]
		return n, nil
	}
	n, err := p.in.Read(b[:min(uint64(len(b)), p.left)])
	p.Pot.left -= uint64(n)
	return n, cut(err)
}

// open makes a record the current one.
func (p *Pot) open(r record) error {
	n, err := r.payload()
	p.ended, p.rest, p.left = r.kind() == typeEnd, r.head, n
	return err
}

func (p *Pot) end() error {
	switch end, err := p.next(); {
	case err != nil:
		return err
	case end.kind() == typeBegin:
		return errors.New("the stream has more than a root file system's one snapshot; export it with pot export -A, without other datasets")
	case end.kind() != typeEnd:
		return errNoPot
	}
	return io.EOF
}
