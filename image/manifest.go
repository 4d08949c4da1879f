package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// Manifest is what NAME_TAG.json says of an image. It pins the stream by its digest, and what an incremental one differs from by its ID.
type Manifest struct {
	Name    string    `json:"name"`
	Tag     string    `json:"tag"`
	OS      string    `json:"os"`   // GOOS's word: "freebsd"
	Arch    string    `json:"arch"` // GOARCH's word: "amd64"
	Created time.Time `json:"created"`
	// OSRelease is the release that the image was made from, such as "12.2-RELEASE".
	OSRelease string `json:"os_release,omitempty"`

	// Format is what the stream decompresses to: "zfs" (zfs send) or "tar".
	Format      string `json:"format"`
	Compression string `json:"compression"` // "zstd", "xz", "gzip" or "none"
	// Size and UncompressedSize are in bytes.
	Size             int64 `json:"size"`
	UncompressedSize int64 `json:"uncompressed_size"`
	// Digest is of the stream as published: "sha256:" and 64 hexadecimal digits.
	Digest string `json:"digest"`
	// Snapshot is the name of the snapshot in the stream; "" for a tar archive.
	Snapshot string `json:"snapshot,omitempty"`
	// Parent is the reference of the image that an incremental stream is the difference from, at the same base URL: NAME:TAG@ and
	// that image's ID. A pot's has the ID in the store only.
	Parent string `json:"parent,omitempty"`
	// Skein is set in the store only, on pots: Skein-1024 of the stream and its meta.
	Skein string `json:"skein,omitempty"`

	Defaults Defaults `json:"defaults"`
}

// Defaults are what a task of the image runs unless its job says otherwise.
type Defaults struct {
	Command string            `json:"command,omitempty"`
	Args    []string          `json:"args,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Workdir string            `json:"workdir,omitempty"`
	User    string            `json:"user,omitempty"`
	Ports   []string          `json:"ports,omitempty"` // "80" or "53/udp"; informative
	// Attributes are a pot's, by name without "pot.attr.", such as "no-rc-script".
	Attributes map[string]string `json:"attributes,omitempty"`
}

// ID names the image in a store, and a reference or a parent's manifest pins it by that: "sha256:" and 64 hexadecimal digits, which fix
// all of its content. Of a whole image it is its stream's digest. An incremental stream knows what it differs from by a number that whoever
// made that chose, so its image's is the SHA-256 of three lines that end in a newline each: "incremental image", the stream's digest, the
// parent's ID. No stream begins as that text does. It is "" where a digest is not known yet, as it may be of a pot and its parent.
func (m Manifest) ID() string {
	_, parent, pinned := strings.Cut(m.Parent, "@")
	if m.Parent == "" || m.Digest == "" {
		return m.Digest
	}
	if !pinned {
		return ""
	}
	sum := sha256.Sum256([]byte("incremental image\n" + m.Digest + "\n" + parent + "\n"))
	return digestPrefix + hex.EncodeToString(sum[:])
}

// checkPin refuses what a registry has in the place of what was pinned.
func (m Manifest) checkPin(ref Reference) error {
	id := m.ID()
	if ref.Digest == m.Digest && id != ref.Digest {
		return fmt.Errorf("%s is the digest of its stream only, which says nothing of the image that it is the difference from; pin %s, or export again what names it as its parent", ref.Digest, id)
	}
	if ref.Digest != "" && id != ref.Digest {
		return fmt.Errorf("the registry's digest is %s now and not %s as the reference says; pin the new one, or publish the old one again", id, ref.Digest)
	}
	return nil
}

// suffix is of the stream's file name: ".zfs.zst".
func (m Manifest) suffix() string { return "." + m.Format + compressions[m.Compression].extension }

// formats are what a stream can decompress to.
var formats = []string{"zfs", "tar"}

// Words of GOOS and GOARCH that an image can bear; another one in a manifest is a mistake worth its own sentence.
var (
	systems       = []string{"freebsd", "linux"}
	architectures = []string{"386", "amd64", "arm", "arm64", "ppc64", "ppc64le", "riscv64", "s390x"}
)

// parseManifest reads a manifest that claims to be ref's and refuses all that a well-made one does not say.
func parseManifest(data []byte, ref Reference) (Manifest, error) {
	var m Manifest
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&m); err != nil {
		return m, fmt.Errorf("its manifest is not JSON as it should be (%w); is a registry at that URL?", storage.Clipped(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return m, errors.New("its manifest has something behind its JSON; publish it again")
	}
	if m.Name != ref.Name || m.Tag != ref.Tag {
		return m, fmt.Errorf("its manifest is of another image, %q; publish it under that name", clip(m.Name+":"+m.Tag))
	}
	m.Skein = "" // it would pass for a pot that has that sum
	return m, m.validate()
}

func (m Manifest) validate() error {
	checks := []error{
		oneOf("os", m.OS, systems),
		oneOf("arch", m.Arch, architectures),
		oneOf("format", m.Format, formats),
		oneOf("compression", m.Compression, compressionNames()),
		checkText(m.OSRelease),
		m.checkStream(),
		m.checkParent(),
		m.Defaults.validate(),
	}
	for _, err := range checks {
		if err != nil {
			return fmt.Errorf("its manifest is wrong: %w", err)
		}
	}
	return nil
}

func oneOf(field, value string, known []string) error {
	if slices.Contains(known, value) {
		return nil
	}
	return fmt.Errorf("unknown %s %q; known are %s", field, clip(value), strings.Join(known, ", "))
}

func (m Manifest) checkStream() error {
	switch {
	case !validDigest(m.Digest):
		return fmt.Errorf("digest %q is not sha256: and 64 hexadecimal digits", clip(m.Digest))
	case m.Size <= 0:
		return fmt.Errorf("size %d; a stream has at least a byte", m.Size)
	case m.UncompressedSize <= 0:
		return fmt.Errorf("uncompressed_size %d; a stream has at least a byte", m.UncompressedSize)
	case m.Snapshot != "" && checkName("snapshot", m.Snapshot) != nil:
		return checkName("snapshot", m.Snapshot)
	}
	return nil
}

func (m Manifest) checkParent() error {
	if m.Parent == "" {
		return nil
	}
	parent, err := ParseReference(m.Parent)
	switch {
	case err != nil:
		return fmt.Errorf("parent: %w", err)
	case parent.Base != "" || parent.Digest == "":
		return fmt.Errorf("parent %q is not NAME:TAG@sha256:…", clip(m.Parent))
	case m.Format != "zfs":
		return fmt.Errorf("it has a parent, which a %s stream cannot have", m.Format)
	}
	return nil
}

func (d Defaults) validate() error {
	texts := append([]string{d.Command, d.Workdir, d.User}, d.Args...)
	for k, v := range d.Env {
		if k == "" || strings.ContainsRune(k, '=') {
			return fmt.Errorf("%q is no name of an environment variable", clip(k))
		}
		texts = append(texts, k, v)
	}
	for k, v := range d.Attributes {
		texts = append(texts, k, v)
	}
	for _, s := range texts {
		if err := checkText(s); err != nil {
			return err
		}
	}
	if d.Workdir != "" && !strings.HasPrefix(d.Workdir, "/") {
		return fmt.Errorf("workdir %q is not absolute", clip(d.Workdir))
	}
	for _, p := range d.Ports {
		if err := checkPort(p); err != nil {
			return err
		}
	}
	return nil
}

// checkText refuses what no program takes, no store keeps, or a terminal would obey.
func checkText(s string) error {
	for _, c := range s {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' || c == 0x7f {
			return fmt.Errorf("%q has the control character %q", clip(s), c)
		}
	}
	return nil
}

func checkPort(s string) error {
	number, proto, ok := strings.Cut(s, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 || ok && proto != "tcp" && proto != "udp" {
		return fmt.Errorf("%q is no port; write 80 or 53/udp", clip(s))
	}
	return nil
}

// checkPlatform refuses an image that this host's kernel cannot run.
func (m Manifest) checkPlatform(host Options) error {
	switch {
	case m.OS != host.OS || m.Arch != host.Arch:
		return fmt.Errorf("it is for %s/%s and this host is %s/%s; publish one for this host", m.OS, m.Arch, host.OS, host.Arch)
	case newerRelease(m.OSRelease, host.OSRelease):
		return fmt.Errorf("it is made from %s and this host's kernel is %s, which runs images of its own release and older ones; "+
			"upgrade the host, or publish an older one", storage.Clip(m.OSRelease, 80), host.OSRelease)
	}
	return nil
}
