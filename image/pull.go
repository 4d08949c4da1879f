package image

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// link is one stream of a pull: the image itself, or one that it is the difference from.
type link struct {
	ref      Reference
	client   *client
	base     string // where its manifest was found
	manifest Manifest
	signedBy string // ID of the key, "" without a signature
	pot      *pot   // nil for our own images; its manifest is whole only after the stream
	before   int64  // bytes of the links before it
	total    int64  // bytes of all links
}

// id is the image's name in the store.
func (l *link) id() string { return strings.TrimPrefix(l.manifest.ID(), digestPrefix) }

// tmp is the name that the image has until it is whole, and that of its lock: a leftover is met by the next try.
func (l *link) tmp() string {
	if l.pot != nil {
		return l.pot.tmp()
	}
	return "pull-" + l.id()[:32]
}

func (l *link) fileName() string {
	if l.pot != nil {
		return l.ref.fileName(potSuffix)
	}
	return l.ref.fileName(l.manifest.suffix())
}

// pull tries the mirrors and then the registry that the reference names.
func (s *Store) pull(ctx context.Context, ref Reference, report func(Progress)) (img Image, err error) {
	err = s.atRegistries(ctx, ref, func(c *client, base string, patience *patience) error {
		img, err = s.pullChain(ctx, c, base, ref, patience, report)
		return err
	})
	if err != nil {
		return Image{}, err
	}
	img.Reference = ref
	return img, nil
}

// atRegistries asks one after the other for an image, until one has it.
func (s *Store) atRegistries(ctx context.Context, ref Reference, ask func(*client, string, *patience) error) error {
	c, err := s.client()
	if err != nil {
		return err
	}
	s.warnUnverified(ref)
	bases := s.bases(ref)
	for i, base := range bases {
		if i > 0 {
			s.log.Warn("trying the next registry", "image", ref.String(), "at", base, "error", err)
		}
		from := *c
		from.others = i < len(bases)-1
		if err = s.atRegistry(&from, base, ref, ask); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

// atRegistry begins again, with the manifest, where the registry's files change under it.
func (s *Store) atRegistry(c *client, base string, ref Reference, ask func(*client, string, *patience) error) error {
	patience := newPatience(s.options.Limits.Retry)
	for {
		err := ask(c, base, patience)
		var again *restart
		if !errors.As(err, &again) {
			return err
		}
		s.log.Debug("the registry's file has changed, asking for its manifest again", "image", ref.String())
	}
}

// warnUnverified is for once per pull, however many mirrors and images below it are asked.
func (s *Store) warnUnverified(ref Reference) {
	if trust, err := s.trust(); err == nil && len(trust) == 0 {
		s.log.Warn("the image's origin is not verified: no keys are configured", "image", ref.String())
	}
}

// bases are the base URLs to try, the reference's own last: its failure is the one that is told.
func (s *Store) bases(ref Reference) []string {
	return slices.Concat(ref.Mirrors, s.options.Registry.Mirrors[ref.Base], []string{ref.Base})
}

func (s *Store) pullChain(ctx context.Context, c *client, base string, ref Reference, patience *patience, report func(Progress)) (Image, error) {
	links, parent, err := s.chain(ctx, c, base, ref, s.findParent)
	if err != nil {
		return Image{}, err
	}
	var total int64
	for _, l := range links {
		total += l.manifest.Size
	}
	var img Image
	var before int64
	for _, l := range slices.Backward(links) {
		l.before, l.total = before, total
		if img, err = s.fetch(ctx, l, parent, patience, report); err != nil {
			return Image{}, l.explain(ref, err)
		}
		parent = img
		before += l.manifest.Size
	}
	return img, nil
}

// maxChain is how many incremental images may stand on each other.
const maxChain = 32

// chain is the image and those below it that find has not in the store, down to one that is, which it returns, or to a whole
// one. All manifests are judged before any stream is asked for.
func (s *Store) chain(ctx context.Context, c *client, base string, ref Reference, find func(context.Context, Reference) (Image, error)) (links []*link, parent Image, err error) {
	for next := ref; ; {
		l, err := s.manifest(ctx, c, base, next)
		if err != nil {
			return nil, Image{}, (&link{ref: next}).explain(ref, err)
		}
		links = append(links, l)
		if l.manifest.Parent == "" {
			return links, Image{}, nil
		}
		if len(links) > maxChain {
			return nil, Image{}, fmt.Errorf("more than %d images stand on each other below it; export it whole", maxChain)
		}
		if next, err = ParseReference(l.manifest.Parent); err != nil {
			return nil, Image{}, err
		}
		next.Base = ref.Base
		here, err := find(ctx, next)
		if !errors.Is(err, errNotHere) {
			return links, here, err
		}
	}
}

// findParent goes by the ID, for which the signature of the image above vouches. Only a pot's parent lacks it, and needs a
// signature of its own.
func (s *Store) findParent(ctx context.Context, ref Reference) (Image, error) {
	if ref.Digest != "" {
		return s.findID(ctx, ref.Digest)
	}
	trust, err := s.trust()
	if err != nil {
		return Image{}, err
	}
	img, err := s.find(ctx, ref)
	if err == nil && (!trust.accepts(img) || img.Pin() == "") {
		err = errNotHere
	}
	return img, err
}

// explain says of which image below the wanted one an error is.
func (l *link) explain(wanted Reference, err error) error {
	if l.ref.unpinned() == wanted.unpinned() {
		return err
	}
	return fmt.Errorf("below it, image %s: %w", l.ref.short(), err)
}

// manifest asks a registry what the image is.
func (s *Store) manifest(ctx context.Context, c *client, base string, ref Reference) (*link, error) {
	data, err := s.small(ctx, c, base+"/"+ref.fileName(".json"))
	if isNotFound(err) || isForbidden(err) {
		l, potErr := s.potLink(ctx, c, base, ref)
		if isNotFound(potErr) || isForbidden(potErr) {
			return nil, err
		}
		return l, potErr
	}
	if err != nil {
		return nil, err
	}
	signer, err := s.signer(ctx, c, base, ref.fileName(".json"), data)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(data, ref)
	if err != nil {
		return nil, err
	}
	if err := s.accept(m, ref); err != nil {
		return nil, err
	}
	return &link{ref: ref, client: c, base: base, manifest: m, signedBy: signer}, nil
}

// signer is the ID of the key that signed the registry's file, where this host wants that.
func (s *Store) signer(ctx context.Context, c *client, base, file string, data []byte) (string, error) {
	trust, err := s.trust()
	if err != nil {
		return "", err
	}
	if len(trust) == 0 {
		return "", nil
	}
	text, err := s.small(ctx, c, base+"/"+file+".sig")
	if isNotFound(err) {
		return "", fmt.Errorf("it is not signed, the registry has no %s/%s.sig, and this host takes signed images only; sign it with: image sign", base, file)
	}
	if isForbidden(err) { // as a bucket answers, and no reason to take the image for one that is not there
		return "", fmt.Errorf("it is not signed as far as this host may see: %s", err)
	}
	if err != nil {
		return "", err
	}
	return verify(data, text, trust)
}

// accept is this host's part of judging a manifest.
func (s *Store) accept(m Manifest, ref Reference) error {
	if err := m.checkPin(ref); err != nil {
		return err
	}
	switch format := s.backend.Format(); {
	case max(m.Size, m.UncompressedSize) > s.options.Limits.Stream:
		return fmt.Errorf("its stream has %d bytes; this host accepts at most %d", max(m.Size, m.UncompressedSize), s.options.Limits.Stream)
	case format != "" && m.Format != format:
		return fmt.Errorf("it is published as %s and this host's store takes %s; publish it as %s", m.Format, format, format)
	}
	return m.checkPlatform(s.options)
}

// small reads a manifest or what comes with it, trying again while the registry fails in passing.
func (s *Store) small(ctx context.Context, c *client, url string) ([]byte, error) {
	patience := newPatience(s.options.Limits.Retry)
	for {
		data, err := s.smallOnce(ctx, c, url)
		if err == nil || ctx.Err() != nil || c.others || !passing(err) || !patience.again(ctx, 0) {
			return data, err
		}
		s.log.Debug("trying again", "url", url, "error", err)
	}
}

func (s *Store) smallOnce(ctx context.Context, c *client, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Limits.Stall)
	defer cancel()
	return c.small(ctx, url, s.options.Limits.Manifest)
}

// fetch makes sure that the link's image is in the store, under its reference. parent is the image that an incremental stream
// stands on.
func (s *Store) fetch(ctx context.Context, l *link, parent Image, patience *patience, report func(Progress)) (Image, error) {
	lock, err := takeLock(ctx, s.options.LockDir, l.tmp(), report)
	if err != nil {
		return Image{}, err
	}
	defer lock.release()
	if l.pot != nil && parent.ID != "" {
		l.manifest.Parent += "@" + parent.Pin() // a pot has its name only, which means another image elsewhere
	}
	here, err := s.findLink(ctx, l)
	switch {
	case err == nil:
		return s.setName(ctx, here.ID, l.record())
	case !errors.Is(err, errNotHere):
		return Image{}, err
	}
	var told time.Time
	tell := func(bytes, size int64) {
		p := Progress{Bytes: l.before + bytes, Total: max(l.total, l.before+size)}
		report(p)
		if now := time.Now(); now.Sub(told) >= lockPoll {
			told = now
			lock.tell(p)
		}
	}
	if err := s.receive(ctx, l, parent.ID, patience, tell); err != nil {
		return Image{}, err
	}
	return s.commit(ctx, l)
}

func (l *link) record() record {
	return record{Reference: l.ref.unpinned(), Manifest: l.manifest, SignedBy: l.signedBy}
}

// findLink looks for the image that the link's stream would make. What its manifest lacks, as a pot's does, comes from there.
func (s *Store) findLink(ctx context.Context, l *link) (Image, error) {
	if l.pot == nil {
		return s.findID(ctx, l.manifest.ID())
	}
	img, err := s.look(ctx, func(img Image) bool {
		return img.Manifest.Skein == l.pot.sum && img.Manifest.Parent == l.manifest.Parent
	})
	if err != nil {
		return Image{}, err
	}
	name, tag := l.manifest.Name, l.manifest.Tag
	l.manifest = img.Manifest
	l.manifest.Name, l.manifest.Tag = name, tag
	return img, l.manifest.checkPin(l.ref) // whose digest is known only now
}

func (s *Store) commit(ctx context.Context, l *link) (Image, error) {
	r := l.record()
	value, err := r.value()
	props := map[string]string{r.key(): value}
	if err == nil {
		err = s.backend.Commit(ctx, l.tmp(), l.id(), props)
	}
	if err == nil {
		s.known.add(storage.Image{ID: l.id(), Props: props})
	} else {
		s.discard(l.tmp())
		if !errors.Is(err, storage.ErrExists) { // another LockDir's process was faster
			return Image{}, err
		}
	}
	return s.setName(ctx, l.id(), r)
}

// discard works also after the pull's context has ended.
func (s *Store) discard(tmp string) {
	if err := s.backend.Discard(context.Background(), tmp); err != nil {
		s.log.Warn("an unfinished image is left over", "dataset", tmp, "error", err)
	}
}

// receive brings the stream into the backend, whole and verified, under the link's temporary name; on error nothing is left.
// A restart that it returns has to begin with the manifest.
func (s *Store) receive(ctx context.Context, l *link, parent string, patience *patience, report func(bytes, size int64)) error {
	for {
		reached, err := s.receiveOnce(ctx, l, parent, patience, report)
		if err == nil {
			return nil
		}
		s.discard(l.tmp())
		var again *restart
		switch {
		case !errors.As(err, &again):
			return err
		case !patience.again(ctx, l.before+reached):
			return again.error
		case again.changed:
			return again
		}
		s.log.Debug("starting the download again", "image", l.ref.String(), "bytes", reached)
	}
}

// receiveOnce is the one pass: registry, hash, decompressor, backend. It returns how many bytes came.
func (s *Store) receiveOnce(ctx context.Context, l *link, parent string, patience *patience, report func(bytes, size int64)) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src := s.source(ctx, l, patience, report)
	defer src.Close()
	buffered := readAhead(src)
	defer buffered.Close()
	defer cancel() // before Close waits
	err := s.verdict(src, buffered, l, s.unpack(ctx, l, parent, buffered))
	return src.offset.Load(), err
}

// unpack decompresses into the backend, and reads what is behind the end of the backend's stream.
func (s *Store) unpack(ctx context.Context, l *link, parent string, compressed io.Reader) error {
	decoder, err := compressions[l.manifest.Compression].decoder(ctx, compressed)
	if err != nil {
		return err
	}
	defer decoder.Close()
	bounded := &boundedReader{r: decoder, left: l.manifest.UncompressedSize}
	if l.pot != nil {
		bounded.left = s.options.Limits.Stream
		err = s.unpackPot(ctx, l, parent, bounded)
	} else {
		err = s.backend.Receive(ctx, l.tmp(), parent, bounded)
	}
	if bounded.err != nil {
		return bounded.err
	}
	if errors.Is(err, storage.ErrExists) { // a killed pull's, since this one has the lock
		return &restart{error: err}
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, bounded); err != nil {
		return err
	}
	if l.pot != nil {
		l.manifest.UncompressedSize = s.options.Limits.Stream - bounded.left
		return nil
	}
	if bounded.left > 0 {
		return &refusal{fmt.Errorf("its stream decompresses to %d bytes and the manifest says %d; publish it again", l.manifest.UncompressedSize-bounded.left, l.manifest.UncompressedSize)}
	}
	return nil
}

// boundedReader keeps a small stream from becoming a large one. It remembers what went wrong below it, which a command that
// reads it cannot tell.
type boundedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	switch {
	case b.left < 0:
		b.err = &refusal{errors.New("its stream decompresses to more bytes than it may; publish it again")}
		return 0, b.err
	case err != nil && !errors.Is(err, io.EOF):
		b.err = err
	}
	return n, err
}

// forVerdict is how much more is downloaded, after a stream could not be unpacked, to tell a damaged one from, say, a full disk.
const forVerdict = 256 << 20

// verdict says what was wrong in the end, in the order of what explains what: a download that broke off, then bytes that are
// not the published ones, then what decompressor and backend made of them.
func (s *Store) verdict(src *source, rest io.Reader, l *link, unpacked error) error {
	var again *restart
	if errors.As(unpacked, &again) {
		return again
	}
	if unpacked == nil || l.manifest.Size-src.offset.Load() < forVerdict {
		ended, err := readRest(rest, unpacked)
		if err != nil {
			return err
		}
		if ended {
			if err := l.checkDigest(digestPrefix+hex.EncodeToString(src.hash.Sum(nil)), src.offset.Load()); err != nil {
				return err
			}
		}
	}
	var refused *refusal
	if errors.As(unpacked, &refused) {
		return refused
	}
	if unpacked != nil {
		return fmt.Errorf("its stream cannot be unpacked: %s", storage.Clipped(unpacked))
	}
	return nil
}

// readRest tells whether it came to the end; a pot's may have none.
func readRest(rest io.Reader, unpacked error) (ended bool, err error) {
	if unpacked == nil {
		_, err = io.Copy(io.Discard, rest)
		return true, err
	}
	_, err = io.CopyN(io.Discard, rest, forVerdict)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// checkDigest compares what came with what was said; of a pot it notes what nobody said.
func (l *link) checkDigest(digest string, size int64) error {
	if l.pot == nil {
		if digest != l.manifest.Digest {
			return fmt.Errorf("the digest of its stream is %s and not the manifest's %s; the registry's copy is damaged, publish it again", digest, l.manifest.Digest)
		}
		return nil
	}
	l.pot.hash.Write(l.pot.meta)
	if sum := hex.EncodeToString(l.pot.hash.Sum(nil)); sum != l.pot.sum {
		return fmt.Errorf("the Skein-1024 of its stream and meta is %s… and not %s… as its .skein file says; the registry's copy is damaged, export it again", sum[:16], l.pot.sum[:16])
	}
	l.manifest.Digest, l.manifest.Size = digest, size
	return l.manifest.checkPin(l.ref)
}
