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
	"slices"
	"strings"

	"github.com/nomad-driver-jail/nomad-driver-jail/image/skein"
	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
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
	if err != nil && !isNotFound(err) && !isForbidden(err) {
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

func isNotFound(err error) bool { return hasStatus(err, http.StatusNotFound, http.StatusGone) }

// isForbidden is what buckets that nobody may list answer for what they do not have.
func isForbidden(err error) bool { return hasStatus(err, http.StatusForbidden) }

func hasStatus(err error, codes ...int) bool {
	var status *statusError
	return errors.As(err, &status) && slices.Contains(codes, status.code)
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

// unpackPot receives the pot's root file system alone, and takes its configuration on the way.
func (s *Store) unpackPot(ctx context.Context, l *link, parent string, stream io.Reader) error {
	p, err := storage.OpenPot(stream)
	if err != nil {
		return err
	}
	if err := l.manifest.applyPotConf(p.Conf); err != nil {
		return err
	}
	l.manifest.Created = p.Created
	return s.backend.Receive(ctx, l.tmp(), parent, p.Root)
}
