package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// BuildOptions say how an image is built, and what its manifest says. Empty fields are as the recipe or its base has them.
type BuildOptions struct {
	OS, Arch  string // this host's where no base says otherwise
	OSRelease string
	Defaults  Defaults
	// Run runs the recipe's run instructions; without it they are refused.
	Run Runner
	// HostNetwork lets them use the host's network.
	HostNetwork bool
	// Output gets what they print, and a line for each instruction; nil for nobody.
	Output io.Writer
	// NoCache does again what was done before.
	NoCache bool
}

// Runner runs a command in a jail, and returns an error unless it exits with 0.
type Runner func(context.Context, Run) error

// Run is a command to run in a jail whose root is a folder of the host.
type Run struct {
	Root        string
	Args, Env   []string
	Dir, User   string
	HostNetwork bool
	Output      io.Writer
}

// Build makes an image from a folder, or from a tar archive (plain, or compressed with gzip, xz or zstd), whose owners and
// modes it keeps. What was built before from the same files is not built again.
func (s *Store) Build(ctx context.Context, ref Reference, source string, opt BuildOptions) (Image, error) {
	base := instruction{word: "base", text: source, args: []string{source}}
	return s.buildNamed(ctx, ref, Recipe{instructions: []instruction{base}}, true, opt)
}

// BuildRecipe makes an image as a recipe says. Each instruction that changes files makes an image without a name, which the
// same instruction at the same place finds again.
func (s *Store) BuildRecipe(ctx context.Context, ref Reference, recipe Recipe, opt BuildOptions) (Image, error) {
	return s.buildNamed(ctx, ref, recipe, false, opt)
}

func (s *Store) buildNamed(ctx context.Context, ref Reference, recipe Recipe, path bool, opt BuildOptions) (Image, error) {
	img, err := s.build(ctx, ref, recipe, path, opt)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", ref.short(), err)
	}
	return img, nil
}

func (s *Store) build(ctx context.Context, ref Reference, recipe Recipe, path bool, opt BuildOptions) (Image, error) {
	if opt.Output == nil {
		opt.Output = io.Discard
	}
	if ref.Base != "" || ref.Digest != "" {
		return Image{}, errors.New("an image is built as NAME:TAG; its URL and digest come with its export")
	}
	b := &building{Store: s, recipe: recipe, path: path, opt: opt}
	b.manifest = Manifest{
		Name: ref.Name, Tag: ref.Tag, OS: cmp.Or(opt.OS, s.options.OS), Arch: cmp.Or(opt.Arch, s.options.Arch), OSRelease: opt.OSRelease,
		Created: time.Now().UTC().Truncate(time.Second), Format: s.backend.Format(),
	}
	if err := errors.Join(ref.validate(), opt.Check()); err != nil {
		return Image{}, err
	}
	if opt.NoCache {
		b.salt = rand.Text()
	}
	for _, i := range recipe.instructions {
		if err := b.do(ctx, i); err != nil {
			return Image{}, recipe.at(i, err)
		}
	}
	if b.id == "" {
		return Image{}, errors.New("the recipe makes no files; begin it with base or copy")
	}
	b.manifest.Defaults.override(opt.Defaults)
	return s.setName(ctx, b.id, record{Reference: ref.unpinned(), Manifest: b.manifest})
}

// CheckPlatform refuses words that no image's system or architecture is called. "" stands for any.
func CheckPlatform(system, arch string) error {
	return errors.Join(oneOf("os", cmp.Or(system, systems[0]), systems), oneOf("arch", cmp.Or(arch, architectures[0]), architectures))
}

// Check refuses what no manifest can say.
func (o BuildOptions) Check() error {
	return cmp.Or(CheckPlatform(o.OS, o.Arch), o.Defaults.validate())
}

// at says where in the recipe an error is.
func (r Recipe) at(i instruction, err error) error {
	if i.line == 0 {
		return err
	}
	return fmt.Errorf("line %d of the recipe: %s: %w", i.line, i.word, err)
}

// override puts what is set in with over d.
func (d *Defaults) override(with Defaults) {
	if with.Command != "" {
		d.Command, d.Args = with.Command, with.Args
	}
	if with.Env != nil {
		d.Env = with.Env
	}
	if with.Ports != nil {
		d.Ports = with.Ports
	}
	d.Workdir, d.User = cmp.Or(with.Workdir, d.Workdir), cmp.Or(with.User, d.User)
}

// building is an image that is being built.
type building struct {
	*Store
	recipe   Recipe
	path     bool // base is a path in any case
	opt      BuildOptions
	manifest Manifest
	id       string // of the image so far; "" for nothing yet
	salt     string
}

func (b *building) do(ctx context.Context, i instruction) error {
	fmt.Fprintf(b.opt.Output, "%s %s\n", i.word, i.text)
	switch i.word {
	case "base":
		return b.base(ctx, i.args[0])
	case "copy":
		return b.copy(ctx, i.args[:len(i.args)-1], i.args[len(i.args)-1])
	case "run":
		return b.run(ctx, i.text)
	}
	return b.manifest.Defaults.apply(i)
}

// builtPrefix is of the name of an image made here. No manifest's ID begins so: who names one gets no image of ours.
const builtPrefix = "built-"

func builtID(h hash.Hash) string { return builtPrefix + hex.EncodeToString(h.Sum(nil)[:20]) }

// key is the ID of the image that comes of an instruction upon the image so far.
func (b *building) key(parts ...string) string {
	return builtID(hashOf(append([]string{b.id, b.salt}, parts...)...))
}

func (b *building) base(ctx context.Context, what string) error {
	if b.path || strings.HasPrefix(what, "/") || strings.HasPrefix(what, ".") {
		if !b.path && !path.IsAbs(what) {
			what = path.Join(b.recipe.dir, what)
		}
		id, fill, err := b.contentOf(ctx, what)
		if err != nil {
			return err
		}
		b.id = b.key(id)
		return b.step(ctx, b.id, "", fill)
	}
	img, err := b.Find(ctx, what)
	if err != nil && exists(path.Join(b.recipe.dir, what)) {
		return fmt.Errorf("%w; for the file, write ./%s", err, what)
	}
	if ref, refErr := ParseReference(what); err != nil && refErr == nil && ref.Base != "" {
		img, err = b.Ensure(ctx, ref, EnsureOptions{})
	}
	if err == nil {
		img, err = b.trusted(ctx, img)
	}
	if err != nil {
		return err
	}
	m := img.Manifest
	b.id, b.manifest.Defaults = img.ID, m.Defaults
	b.manifest.OS, b.manifest.Arch = cmp.Or(b.opt.OS, m.OS), cmp.Or(b.opt.Arch, m.Arch)
	b.manifest.OSRelease = cmp.Or(b.opt.OSRelease, m.OSRelease)
	return nil
}

// trusted is an image from the store if this host would start a task from it, else what its registry has under its name: what is built of
// it needs no signature any more.
func (s *Store) trusted(ctx context.Context, img Image) (Image, error) {
	trust, err := s.trust()
	switch {
	case err != nil || trust.accepts(img):
		return img, err
	case img.Reference.Base == "":
		return Image{}, fmt.Errorf("image %s: it has lost its name, and with it who signed it; name it as it was pulled, with its URL", img.name())
	case img.byID:
		img.Reference.Digest = img.Pin() // its tag may have moved
	}
	return s.Ensure(ctx, img.Reference, EnsureOptions{})
}

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// copy brings files below the recipe's folder into the image, where root owns them: whose they are here says nothing there.
func (b *building) copy(ctx context.Context, sources []string, target string) error {
	from, err := os.OpenRoot(b.recipe.dir)
	if err != nil {
		return err
	}
	defer from.Close()
	h := hashOf(b.id, b.salt, "copy 2", target) // 1 changed owners and modes of folders that the image had: not found again
	for _, source := range sources {
		if err := hashTree(h, from, path.Clean(source)); err != nil {
			return err
		}
	}
	below := b.id
	b.id = builtID(h)
	return b.step(ctx, b.id, below, func(_ context.Context, root string) error {
		to, err := os.OpenRoot(root)
		if err != nil {
			return err
		}
		defer to.Close()
		if len(sources) > 1 || strings.HasSuffix(target, "/") {
			if err := makeFolder(to, target); err != nil {
				return err
			}
		}
		for _, source := range sources {
			if err := storage.CopyAsRoot(from, path.Clean(source), to, target); err != nil {
				return err
			}
		}
		return nil
	})
}

// inRoot is a path in an image as one below its root.
func inRoot(name string) string { return path.Clean("./" + strings.TrimLeft(name, "/")) }

// makeFolder makes a copy's target the folder that it is meant to be.
func makeFolder(root *os.Root, target string) error {
	switch info, err := root.Stat(inRoot(target)); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s is a file in the image, and more than a file is to be copied there; name a folder", target)
	}
	return root.MkdirAll(inRoot(target), 0o755)
}

func (b *building) run(ctx context.Context, line string) error {
	if b.opt.Run == nil {
		return errors.New("this program runs nothing")
	}
	if b.id == "" {
		return errors.New("there is nothing to run in; begin the recipe with base or copy")
	}
	if err := b.manifest.checkPlatform(b.options); err != nil {
		return err
	}
	d := b.manifest.Defaults
	env := []string{"PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"}
	for name, value := range d.Env {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	below := b.id
	b.id = b.key(append([]string{"run", line, d.User, d.Workdir}, env...)...)
	return b.step(ctx, b.id, below, func(ctx context.Context, root string) error {
		return b.opt.Run(ctx, Run{
			Root: root, Args: []string{"/bin/sh", "-c", line}, Env: env, Dir: cmp.Or(d.Workdir, "/"), User: cmp.Or(d.User, "root"),
			HostNetwork: b.opt.HostNetwork, Output: b.opt.Output,
		})
	})
}

// fill puts an image's files into its root.
type fill func(ctx context.Context, root string) error

// contentOf looks at a source: what identifies it, and how to bring it into an image.
func (s *Store) contentOf(ctx context.Context, source string) (id string, f fill, err error) {
	info, err := os.Stat(source)
	if err != nil {
		return "", nil, err
	}
	h := hashOf("base")
	if info.IsDir() {
		root, err := os.OpenRoot(source)
		if err != nil {
			return "", nil, err
		}
		defer root.Close()
		if err := hashTree(h, root, "."); err != nil {
			return "", nil, err
		}
		return hex.EncodeToString(h.Sum(nil)), func(_ context.Context, dst string) error { return copyTree(source, dst) }, nil
	}
	archive, err := openArchive(ctx, source)
	if err != nil {
		return "", nil, err
	}
	defer archive.Close()
	if err := archive.hash(h); err != nil {
		return "", nil, err
	}
	return hex.EncodeToString(h.Sum(nil)), func(ctx context.Context, dst string) error { return extract(ctx, source, dst) }, nil
}

func copyTree(source, dst string) error {
	from, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer to.Close()
	return storage.Copy(from, ".", to, ".")
}

// step makes the image of that ID, from the image base and what fill adds, unless there is one.
func (s *Store) step(ctx context.Context, id, base string, fill fill) error {
	if _, err := s.kept(ctx, id); !errors.Is(err, errNotHere) {
		s.touch(id)
		return err
	}
	tmp := "build-" + rand.Text()
	lock, err := takeLock(ctx, s.options.LockDir, tmp, nil)
	if err != nil {
		return err
	}
	defer os.Remove(lock.file.Name()) // nobody else knows the name
	defer lock.release()
	root, err := s.backend.Create(ctx, tmp, base)
	if err != nil {
		return err
	}
	err = fill(ctx, root)
	if err == nil {
		err = s.backend.Seal(ctx, tmp)
	}
	if err == nil {
		err = s.backend.Commit(ctx, tmp, id, nil)
	}
	if err != nil {
		s.discard(tmp)
	}
	if errors.Is(err, storage.ErrExists) {
		return nil
	}
	s.touch(id)
	return err
}
