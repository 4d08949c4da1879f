// Package image is how a jail is shipped: references, the registry's manifests and streams, the store on the host, and
// building and publishing.
//
// An image is published as NAME_TAG.json (the manifest) and NAME_TAG.zfs.zst (the stream, whose SHA-256 the manifest has) at
// any static HTTP server. A pull is one pass: bytes are hashed, decompressed and received as they arrive, under a temporary
// name that becomes an image only when length and digest agree.
package image

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/nomad-driver-jail/nomad-driver-jail/storage"
)

// Reference says which image, and where it comes from.
type Reference struct {
	// Base is the URL (http, https or file) of the folder that holds the image's files; "" for an image built on this host.
	Base string
	Name string
	Tag  string
	// Digest pins the image by its manifest's ID: "sha256:" and 64 hexadecimal digits, or "".
	Digest string
	// Mirrors are base URLs to try before Base. They are no part of the image's identity.
	Mirrors []string
}

// Names are part of file names, URLs and property values, on hosts that are not ours.
var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

const (
	maxNameLength = 100
	maxBaseLength = 700 // a reference is kept in a ZFS property, which holds 1023 bytes on old pools
)

// ParseReference reads BASE/NAME:TAG or BASE/NAME:TAG@sha256:DIGEST. Without BASE the image is one built on this host.
func ParseReference(s string) (Reference, error) {
	r, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image %q: %w", clip(withoutUserinfo(s)), err)
	}
	return r, nil
}

// withoutUserinfo is for a message about a text that may hold a password.
func withoutUserinfo(s string) string {
	if at := strings.LastIndexByte(s, '@'); at >= 0 && !strings.HasPrefix(s[at+1:], digestPrefix) {
		return "…" + s[at:]
	}
	return s
}

func parseReference(s string) (Reference, error) {
	if s == "" {
		return Reference{}, errors.New("no image is named; write https://registry.example.org/NAME:TAG")
	}
	// Before anything that could put a password into a message.
	if err := refuseUserinfo(s); err != nil {
		return Reference{}, err
	}
	rest, digest, pinned := strings.Cut(s, "@")
	if pinned && !validDigest(digest) {
		return Reference{}, fmt.Errorf("%q is no digest; write sha256: and 64 hexadecimal digits", clip(digest))
	}
	slash := strings.LastIndexByte(rest, '/')
	base, last := rest[:max(slash, 0)], rest[slash+1:]
	name, tag, ok := strings.Cut(last, ":")
	if strings.HasSuffix(base, ":/") || !ok {
		return Reference{}, errors.New("it has no tag; write NAME:TAG behind the registry's URL")
	}
	r := Reference{Base: base, Name: name, Tag: tag, Digest: digest}
	return r, r.validate()
}

// NewReference is the pot driver's spelling: the registry's URL, the image's name and its tag apart.
func NewReference(base, name, tag string) (Reference, error) {
	if err := refuseUserinfo(base); err != nil {
		return Reference{}, fmt.Errorf("image %q: %w", clip(name+":"+tag), err)
	}
	r := Reference{Base: strings.TrimRight(base, "/"), Name: name, Tag: tag}
	if err := r.validate(); err != nil {
		return Reference{}, fmt.Errorf("image %q: %w", clip(r.String()), err)
	}
	return r, nil
}

// ParseMirrors reads a list of URL=MIRROR, base URLs both, into what to ask before each registry, in the order of the list. Its errors name no
// entry by its text, which may hold credentials.
func ParseMirrors(entries []string) (map[string][]string, error) {
	mirrors := map[string][]string{}
	for i, e := range entries {
		from, to, _ := strings.Cut(e, "=")
		base, err := parseBase(from)
		mirror, err2 := parseBase(to)
		if err != nil || err2 != nil {
			return nil, fmt.Errorf("entry %d must be URL=MIRROR, two base URLs as in https://registry.example.org/images: %w", i+1, cmp.Or(err, err2))
		}
		mirrors[base] = append(mirrors[base], mirror)
	}
	return mirrors, nil
}

func parseBase(s string) (string, error) {
	if err := refuseUserinfo(s); err != nil {
		return "", err
	}
	base := strings.TrimRight(s, "/")
	return base, checkBase(base)
}

func (r Reference) validate() error {
	for _, part := range []struct{ what, value string }{{"name", r.Name}, {"tag", r.Tag}} {
		if err := checkName(part.what, part.value); err != nil {
			return err
		}
	}
	if r.Base == "" {
		return nil
	}
	return checkBase(r.Base)
}

func checkName(what, value string) error {
	switch {
	case len(value) > maxNameLength:
		return fmt.Errorf("the %s has %d bytes; at most %d are possible", what, len(value), maxNameLength)
	case !validName.MatchString(value):
		return fmt.Errorf("%q is no %s of an image; use letters, digits, '.', '_' and '-', a letter or digit first", value, what)
	}
	return nil
}

func checkBase(base string) error {
	if len(base) > maxBaseLength {
		return fmt.Errorf("the registry's URL has %d bytes; at most %d are possible", len(base), maxBaseLength)
	}
	u, err := url.Parse(base)
	if err != nil || strings.ContainsAny(base, " \t\r\n") {
		return errors.New("the registry's URL cannot be parsed; write https://host/path/NAME:TAG")
	}
	switch u.Scheme {
	case "http", "https":
		if u.Hostname() == "" {
			return errors.New("the registry's URL has no host; write https://host/path/NAME:TAG")
		}
	case "file":
		if !strings.HasPrefix(base, "file:///") {
			return errors.New("a file URL is file:///path/NAME:TAG, without a host")
		}
	case "":
		return fmt.Errorf("the registry's URL has no scheme; write https://%s/NAME:TAG", base)
	default:
		return fmt.Errorf("the registry's URL is of scheme %q; http, https and file are possible", u.Scheme)
	}
	if u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return errors.New("the registry's URL ends in a query or fragment; give the folder's URL alone")
	}
	for _, element := range strings.Split(u.Path, "/") {
		if element == ".." || element == "." {
			return fmt.Errorf("the registry's URL has %q in its path; give it without", element)
		}
	}
	return nil
}

// refuseUserinfo keeps passwords out of jobspecs, properties and logs.
func refuseUserinfo(s string) error {
	_, rest, ok := strings.Cut(s, "://")
	authority, _, _ := strings.Cut(rest, "/")
	if ok && strings.Contains(authority, "@") {
		return errors.New("the registry's URL holds credentials; put them into the plugin's configuration instead")
	}
	return nil
}

const digestPrefix = "sha256:"

func validDigest(digest string) bool {
	h, ok := strings.CutPrefix(digest, digestPrefix)
	raw, err := hex.DecodeString(h)
	return ok && err == nil && len(raw) == 32 && strings.ToLower(h) == h
}

// String is the reference as ParseReference reads it.
func (r Reference) String() string {
	s := r.unpinned()
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Folder is the path of the host that a file URL means, as it is opened: without the URL's %xx.
func (r Reference) Folder() (path string, ok bool) { return folderOf(r.Base) }

func folderOf(base string) (path string, ok bool) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "file" {
		return "", false
	}
	return u.Path, true
}

// unpinned is what identifies the reference in the store.
func (r Reference) unpinned() string {
	if r.Base == "" {
		return r.short()
	}
	return r.Base + "/" + r.short()
}

// short is what messages call the image.
func (r Reference) short() string { return r.Name + ":" + r.Tag }

// fileName is the name of one of the image's published files, such as ".json".
func (r Reference) fileName(suffix string) string { return r.Name + "_" + r.Tag + suffix }

// redactURL is for messages about a URL that a server chose.
func redactURL(u *url.URL) string {
	clean := *u
	clean.RawQuery = ""
	clean.Path = path.Clean(u.Path)
	return storage.Clip(clean.Redacted(), 1000)
}

// clip keeps a hostile value from filling a message, in which %q keeps a terminal from obeying it; for others there is storage.Clip.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
