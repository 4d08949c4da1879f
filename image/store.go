package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// Options of a store. The zero value is that of a host without special wishes.
type Options struct {
	// LockDir holds the locks that processes of this host share; "" for one in the system's temporary folder.
	LockDir string
	Logger  hclog.Logger
	// OS and Arch are what images must be for; "" for this program's own.
	OS, Arch string
	// OSRelease is the release that images may be made from, at most; "" for the running kernel's on FreeBSD, and for any
	// elsewhere: a Linux image's release is not a kernel's.
	OSRelease string
	Limits    Limits
	Registry  RegistryOptions
	// Keys are public keys of signify or minisign, as paths of their files or as the base64 line in one. With any, images need
	// a signature by one of them.
	Keys []string
}

// Limits bound what a registry can make the host do. Zero values stand for the defaults.
type Limits struct {
	// Manifest is in bytes; 64 KiB. It is kept in the image's properties.
	Manifest int64
	// Stream is the largest uncompressed stream in bytes; 1 TiB.
	Stream int64
	// Retry is how long a registry may fail, or send nothing new, before a pull gives up; 10 s.
	Retry time.Duration
	// Stall is how long the registry may take for 64 KiB; 30 s.
	Stall time.Duration
}

func (l Limits) withDefaults() Limits {
	if l.Manifest == 0 {
		l.Manifest = 64 << 10
	}
	if l.Stream == 0 {
		l.Stream = 1 << 40
	}
	if l.Retry == 0 {
		l.Retry = 10 * time.Second
	}
	if l.Stall == 0 {
		l.Stall = 30 * time.Second
	}
	return l
}

// Store keeps a host's images in a storage.Backend. It is safe for any number of goroutines, and of processes that have the
// same backend and LockDir.
type Store struct {
	backend storage.Backend
	options Options
	client  func() (*client, error) // an error is of the options
	trust   func() (trust, error)
	log     hclog.Logger
	flights flights
	known   known
}

// New touches nothing.
func New(backend storage.Backend, options Options) *Store {
	if options.LockDir == "" {
		options.LockDir = filepath.Join(os.TempDir(), "nomad-driver-jail-locks")
	}
	if options.Logger == nil {
		options.Logger = hclog.NewNullLogger()
	}
	if options.OS == "" {
		options.OS = runtime.GOOS
	}
	if options.OSRelease == "" && runtime.GOOS == "freebsd" {
		options.OSRelease = hostRelease()
	}
	if options.Arch == "" {
		options.Arch = runtime.GOARCH
	}
	options.Limits = options.Limits.withDefaults()
	return &Store{backend: backend, options: options, log: options.Logger,
		client: sync.OnceValues(func() (*client, error) { return newClient(options.Registry, answerTime) }),
		trust:  sync.OnceValues(func() (trust, error) { return newTrust(options.Keys) })}
}

// Image is one in the store, as one of its references names it.
type Image struct {
	// ID is the name of the image's dataset: the hexadecimal digits of its manifest's ID; for an image that was built here
	// and not pulled, "built-" and digits of what it was built from.
	ID        string
	Reference Reference
	Manifest  Manifest
	// Used is what the image holds by itself, Referenced what a reader of it sees, in bytes. Only List and Find tell.
	Used, Referenced uint64
	// Clones are the tasks and images that stand on it.
	Clones   []string
	LastUsed time.Time
	// SignedBy is the ID of the key whose signature was verified, "" without one.
	SignedBy string

	former []record
	byID   bool // it was asked for by its ID
}

// Pin is what a reference has behind its @ to mean this image and no other; "" where nothing of it was published.
func (img Image) Pin() string {
	return img.pin(record{Reference: img.Reference.unpinned(), Manifest: img.Manifest})
}

// pin takes a registry's manifest by its word only where the image was received as that says: its dataset has the name.
func (img Image) pin(r record) string {
	id := r.Manifest.ID()
	if id == digestPrefix+img.ID || strings.HasPrefix(img.ID, builtPrefix) || !strings.Contains(r.Reference, "/") {
		return id
	}
	return ""
}

// EnsureOptions are a caller's wishes for one image.
type EnsureOptions struct {
	// ForcePull asks the registry whether the tag has moved, also where the image is in the store.
	ForcePull bool
	// Progress is called from the caller's goroutine while bytes come; not at all where there is nothing to download.
	Progress func(Progress)
}

// Ensure returns the image of that reference, from the store or else from its registry. However many goroutines and
// processes ask at the same time, it is downloaded once. An error is one sentence that names the image, what was wrong with
// what, and the way out; the store is then as it was, but for images below the wanted one that had come whole.
func (s *Store) Ensure(ctx context.Context, ref Reference, opt EnsureOptions) (Image, error) {
	img, err := s.ensure(ctx, ref, opt)
	if err == nil { // what was here already may be of another machine's making
		err = img.Manifest.checkPlatform(s.options)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	s.touch(img.ID)
	return img, nil
}

func (s *Store) ensure(ctx context.Context, ref Reference, opt EnsureOptions) (Image, error) {
	if err := ref.validate(); err != nil {
		return Image{}, err
	}
	trust, err := s.trust()
	if err != nil {
		return Image{}, err
	}
	if !opt.ForcePull || ref.Digest != "" {
		img, err := s.find(ctx, ref)
		if err == nil && trust.accepts(img) || err != nil && !errors.Is(err, errNotHere) {
			return img, err
		}
	}
	if ref.Base == "" {
		return Image{}, errors.New("no image of that name was built on this host; build it, or write the registry's URL before the name")
	}
	key := fmt.Sprint(ref, opt.ForcePull)
	return s.flights.do(ctx, key, opt.Progress, func(ctx context.Context, report func(Progress)) (Image, error) {
		return s.pull(ctx, ref, report)
	})
}

var errNotHere = errors.New("the image is not in the store")

// find looks in the store only.
func (s *Store) find(ctx context.Context, ref Reference) (Image, error) {
	img, err := s.look(ctx, func(img Image) bool {
		return img.Reference.unpinned() == ref.unpinned() && (ref.Digest == "" || ref.Digest == img.Pin())
	})
	if errors.Is(err, errNotHere) && ref.Digest != "" {
		img, err = s.findFormer(ctx, ref)
	}
	if err == nil {
		img.Reference = ref
	}
	return img, err
}

// findFormer returns what a pinned reference names although its tag has moved.
func (s *Store) findFormer(ctx context.Context, ref Reference) (Image, error) {
	meant := func(img Image) int {
		return slices.IndexFunc(img.former, func(r record) bool { return r.Reference == ref.unpinned() && img.pin(r) == ref.Digest })
	}
	img, err := s.look(ctx, func(img Image) bool { return meant(img) >= 0 })
	if err != nil {
		return Image{}, err
	}
	return img.as(img.former[meant(img)])
}

// findID returns the image that has been received, or was built here and sent, as one of that ID, whatever it is called.
func (s *Store) findID(ctx context.Context, id string) (Image, error) {
	return s.look(ctx, func(img Image) bool {
		return img.Pin() == id || slices.ContainsFunc(img.former, func(r record) bool { return img.pin(r) == id })
	})
}

// List is one line per reference, ordered by them; an image that has lost its references has one line without.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	lock, lockErr := os.Stat(s.storeLockPath())
	kept, err := s.backend.Images(ctx)
	if err != nil {
		return nil, err
	}
	if lockErr == nil {
		s.know(lock.ModTime(), kept)
	}
	return s.lines(kept), nil
}

// Root is the path of the image's root file system on this host, for reading.
func (s *Store) Root(ctx context.Context, img Image) (string, error) {
	root, err := s.backend.ImageRoot(ctx, img.ID)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", img.name(), err)
	}
	return root, nil
}

func (s *Store) lines(kept []storage.Image) []Image {
	var list []Image
	for _, k := range kept {
		before := len(list)
		for _, r := range records(k.Props) {
			if named, err := s.image(k).as(r); err == nil {
				list = append(list, named)
			}
		}
		if len(list) == before { // none, or none that is one today
			list = append(list, s.image(k))
		}
	}
	slices.SortFunc(list, func(a, b Image) int {
		return strings.Compare(a.Reference.Name+":"+a.Reference.Tag+" "+a.Reference.Base+a.ID, b.Reference.Name+":"+b.Reference.Tag+" "+b.Reference.Base+b.ID)
	})
	return list
}

// image is what is known of a kept one without its names.
func (s *Store) image(k storage.Image) Image {
	return Image{ID: k.ID, Used: k.Used, Referenced: k.Referenced, Clones: k.Clones, LastUsed: s.lastUsed(k.ID), former: formerRecords(k.Props)}
}

// as is the image as one of its names has it.
func (img Image) as(r record) (Image, error) {
	var err error
	img.Reference, err = ParseReference(r.Reference)
	img.Manifest, img.SignedBy = r.Manifest, r.SignedBy
	return img, err
}

var idDigits = regexp.MustCompile(`^(sha256:|built-)?[0-9a-f]{4,}$`)

// Find takes what a person types: a whole reference, NAME:TAG where only one registry's is in the store, or the first digits
// of an ID, four at least.
func (s *Store) Find(ctx context.Context, what string) (Image, error) {
	all, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	if ref, err := ParseReference(what); err == nil && ref.Digest != "" {
		if img, err := s.find(ctx, ref); !errors.Is(err, errNotHere) {
			return img, err
		}
	}
	exact := func(img Image) bool { return img.Reference.Name != "" && img.Reference.unpinned() == what }
	short := func(img Image) bool { return img.Reference.Name != "" && img.Reference.short() == what }
	id := func(img Image) bool {
		return idDigits.MatchString(what) && strings.HasPrefix(img.ID, strings.TrimPrefix(what, digestPrefix))
	}
	for i, matches := range []func(Image) bool{exact, short, id} {
		var found []Image
		for _, img := range all {
			if matches(img) {
				img.byID = i == 2 // the last way to match
				found = append(found, img)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1 && slices.ContainsFunc(found, func(img Image) bool { return img.ID != found[0].ID }):
			return Image{}, fmt.Errorf("image %s: several in the store bear that name, such as %s and %s; name one of them whole", what, found[0].name(), found[1].name())
		case len(found) > 1:
			return found[0], nil
		}
	}
	return Image{}, fmt.Errorf("image %s: it is not in the store; see what is with: image list", clip(what))
}

func (img Image) name() string {
	if img.Reference.Name == "" {
		return img.ID
	}
	return img.Reference.unpinned()
}

// Remove takes a reference's name off its image, and the image away with its last name. One that tasks or other images stand
// on, or that something on the host has open, stays, named; so does one with several names that was found by its ID.
func (s *Store) Remove(ctx context.Context, img Image) error {
	if err := s.remove(ctx, img); err != nil {
		return fmt.Errorf("image %s: %w", img.name(), err)
	}
	return nil
}

func (s *Store) remove(ctx context.Context, img Image) error {
	_, unlock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	kept, err := s.kept(ctx, img.ID)
	if err != nil {
		return err
	}
	names := records(kept.Props)
	if len(names) > 1 && img.byID {
		return fmt.Errorf("it has several names, such as %s and %s; name the one to take off", names[0].Reference, names[1].Reference)
	}
	name := img.Reference.unpinned()
	if img.Reference.Name != "" && slices.ContainsFunc(names, func(r record) bool { return r.Reference != name }) {
		return s.backend.SetProp(ctx, kept.ID, recordKey(name), noRecord)
	}
	if len(kept.Clones) > 0 {
		return fmt.Errorf("%s stands on it; stop or remove that first", strings.Join(kept.Clones, ", "))
	}
	return s.backend.RemoveImage(ctx, img.ID)
}

func (s *Store) kept(ctx context.Context, id string) (storage.Image, error) {
	all, err := s.backend.Images(ctx)
	if err != nil {
		return storage.Image{}, err
	}
	if i := indexOf(all, id); i >= 0 {
		return all[i], nil
	}
	return storage.Image{}, errNotHere
}

// setName gives an image in the store a name, takes it off any other, and returns the image under that name.
func (s *Store) setName(ctx context.Context, id string, r record) (Image, error) {
	value, err := r.value()
	if err != nil {
		return Image{}, err
	}
	last, unlock, err := s.lockStore(ctx)
	if err != nil {
		return Image{}, err
	}
	all, err := s.imagesWith(ctx, id, last)
	if err == nil {
		err = s.rename(ctx, all, id, r.key(), value)
	}
	at := unlock()
	if err != nil {
		return Image{}, err
	}
	s.know(at, all)
	i := indexOf(all, id)
	if i < 0 {
		return Image{}, errNotHere
	}
	return s.image(all[i]).as(r)
}

// imagesWith are all images: those known where that is of the last change and has the one of that ID, else those of the store.
func (s *Store) imagesWith(ctx context.Context, id string, last time.Time) ([]storage.Image, error) {
	if all := s.knownAt(last); indexOf(all, id) >= 0 {
		return all, nil
	}
	return s.backend.Images(ctx)
}

func indexOf(all []storage.Image, id string) int {
	return slices.IndexFunc(all, func(k storage.Image) bool { return k.ID == id })
}

// rename gives one of all images a record, and makes it a former one of the others that have it.
func (s *Store) rename(ctx context.Context, all []storage.Image, id, key, value string) error {
	for i := range all {
		k := &all[i]
		have, want := k.Props[key], value
		if k.ID != id {
			if have == "" || strings.HasPrefix(have, formerPrefix) {
				continue
			}
			want = formerPrefix + have
			s.log.Info("a tag has moved", "from", k.ID, "to", id)
		}
		if have == want {
			continue
		}
		if err := s.backend.SetProp(ctx, k.ID, key, want); err != nil {
			return err
		}
		if k.Props == nil {
			k.Props = map[string]string{}
		}
		k.Props[key] = want
	}
	return nil
}

const storeLock = "store"

func (s *Store) storeLockPath() string { return filepath.Join(s.options.LockDir, storeLock) }

// lockStore is for changes of what is named how. The lock's file bears the time of the last one, for known; and that of one under way,
// whose process may be killed.
func (s *Store) lockStore(ctx context.Context) (last time.Time, unlock func() time.Time, err error) {
	l, err := takeLock(ctx, s.options.LockDir, storeLock, nil)
	if err != nil {
		return time.Time{}, nil, err
	}
	info, err := l.file.Stat()
	if err != nil {
		l.release()
		return time.Time{}, nil, err
	}
	changed := func() time.Time {
		now := time.Now()
		os.Chtimes(l.file.Name(), now, now)
		return now
	}
	changed()
	return info.ModTime(), func() time.Time {
		defer l.release()
		return changed()
	}, nil
}

// touch notes that an image was used now: in a file, since a property costs a disk's sync. Without the file an image counts
// as used when it was made.
func (s *Store) touch(id string) {
	path := s.usedPath(id)
	os.MkdirAll(filepath.Dir(path), 0o700)
	now := time.Now()
	if os.Chtimes(path, now, now) != nil {
		os.WriteFile(path, nil, 0o600)
	}
}

func (s *Store) lastUsed(id string) time.Time {
	info, err := os.Stat(s.usedPath(id))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (s *Store) usedPath(id string) string { return filepath.Join(s.options.LockDir, "used", id) }

// Sweep removes what killed pulls and builds left, and nothing that one at work holds.
func (s *Store) Sweep(ctx context.Context) error {
	leftovers, err := s.backend.Temporary(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, tmp := range leftovers {
		l, err := tryLock(s.options.LockDir, tmp)
		if err == nil && l != nil {
			err = s.backend.Discard(ctx, tmp)
			l.release()
		}
		if errors.Is(err, storage.ErrBusy) {
			s.log.Warn("a leftover stays until the next time", "dataset", tmp, "error", err)
			continue
		}
		errs = append(errs, err)
	}
	errs = append(errs, removeLocks(s.options.LockDir))
	return errors.Join(errs...)
}
