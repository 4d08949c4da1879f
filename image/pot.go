package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
)

// A pot, as `pot export` publishes it: NAME_TAG.xz, the stream; .xz.meta, one line that names the pot it stands on, or "-";
// .xz.skein, Skein-1024 of the stream followed by the meta; and perhaps .xz.skein.sig, a signature of that. It has no
// manifest: what that would say is in the stream, or known when it has been read.
type pot struct {
	sum  string // in hexadecimal digits
	meta []byte
	hash hash.Hash
}

// potSuffix is of the stream's file name.
const potSuffix = ".xz"

// potLink asks a registry whether the image is a pot.
func (s *Store) potLink(ctx context.Context, c *client, base string, ref Reference) (*link, error) {
	text, err := s.small(ctx, c, base+"/"+ref.fileName(potSuffix+".skein"))
	if err != nil {
		return nil, err
	}
	p := &pot{sum: strings.ToLower(strings.TrimSpace(string(text)))}
	if raw, err := hex.DecodeString(p.sum); err != nil || len(raw) != skein.Size {
		return nil, errors.New("its .skein file is not what skein1024 -q prints; export it again")
	}
	signer, err := s.signer(ctx, c, base, ref.fileName(potSuffix+".skein"), text)
	if err != nil {
		return nil, err
	}
	p.meta, err = s.small(ctx, c, base+"/"+ref.fileName(potSuffix+".meta"))
	if err != nil && !isNotFound(err) {
		return nil, err
	}
	m := Manifest{Name: ref.Name, Tag: ref.Tag, OS: "freebsd", Arch: s.options.Arch, Format: "zfs", Compression: "xz", Skein: p.sum}
	if m.Parent, err = potParent(p.meta); err != nil {
		return nil, err
	}
	if err := s.accept(m, Reference{}); err != nil {
		return nil, err
	}
	return &link{ref: ref, client: c, base: base, manifest: m, signedBy: signer, pot: p}, nil
}

func isNotFound(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusNotFound
}

// potParent reads NAME:TAG@SNAPSHOT, or "-".
func potParent(meta []byte) (string, error) {
	line, _, _ := strings.Cut(string(meta), "\n")
	if line = strings.TrimSpace(line); line == "" || line == "-" {
		return "", nil
	}
	parent, _, _ := strings.Cut(line, "@")
	if r, err := ParseReference(parent); err != nil || r.Base != "" {
		return "", fmt.Errorf("its .meta file names %q, which is no NAME:TAG@SNAPSHOT; export it again", clip(line))
	}
	return parent, nil
}

// tmp is the name of a pot that is not whole; its digest is not known before.
func (p *pot) tmp() string {
	sum := sha256.Sum256([]byte(p.sum))
	return "pull-" + hex.EncodeToString(sum[:16])
}

// unpackPot receives the pot's root file system alone, and reads its configuration on the way.
func (s *Store) unpackPot(ctx context.Context, l *link, parent string, stream io.Reader) error {
	reader := &sendReader{r: stream}
	name, err := reader.packageHead()
	if err != nil {
		return noEOF(err)
	}
	conf, root, err := potStreams(reader, name)
	if err != nil {
		return err
	}
	if err := l.manifest.applyPotConf(conf); err != nil {
		return err
	}
	l.manifest.Created = time.Unix(int64(root.u64(24)), 0).UTC()
	plain := &plainReader{s: reader, first: root}
	if err := s.backend.Receive(ctx, l.tmp(), parent, plain); err != nil {
		return err
	}
	return potEnd(reader)
}

// maxPotConf is for the dataset beside the root, which holds little more than pot.conf.
const maxPotConf = 4 << 20

// potStreams reads up to the stream of the root file system, whose first record it returns.
func potStreams(reader *sendReader, name string) (conf string, root *sendRecord, err error) {
	first, dataset, isPackage, err := reader.begin()
	if err != nil || isPackage || dataset != name {
		return "", nil, errors.Join(noEOF(err), errStream)
	}
	files, err := smallFiles(reader, first, maxPotConf)
	if err != nil {
		return "", nil, err
	}
	conf, ok := files.file("conf", "pot.conf")
	if !ok {
		return "", nil, errors.New("its stream has no conf/pot.conf; export it with pot export")
	}
	root, dataset, isPackage, err = reader.begin()
	switch {
	case err != nil || isPackage:
		return "", nil, errors.Join(noEOF(err), errStream)
	case dataset == name:
		return "", nil, errors.New("its stream has several snapshots; export it with pot export -A")
	case dataset != name+"/m":
		return "", nil, fmt.Errorf("its stream has the dataset %q, which is not a pot's; an image is one root file system", clip(dataset))
	}
	return conf, root, nil
}

// potEnd refuses datasets and snapshots that nobody would look at.
func potEnd(reader *sendReader) error {
	end, err := reader.next()
	if err != nil {
		return noEOF(err)
	}
	if end.kind() == recordBegin {
		return errors.New("its stream has more than a root file system's one snapshot; export it with pot export -A, without other datasets")
	}
	if end.kind() != recordEnd {
		return errStream
	}
	return nil
}
