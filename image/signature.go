package image

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/blake2b"
)

// A signature is NAME_TAG.json.sig beside the manifest, as signify(1) and minisign(1) write it: a comment's line, then base64
// of an algorithm's two letters, the key's number and an Ed25519 signature. minisign adds a trusted comment, signed together
// with the signature. The files of keys are of the same form.
const (
	algorithm          = "Ed"
	algorithmPrehashed = "ED" // minisign's: the BLAKE2b-512 of the message is signed
	signatureSuffix    = ".json.sig"
)

// PublicKey is one that an operator trusts.
type PublicKey struct {
	number [8]byte
	key    ed25519.PublicKey
}

// ID is the key's number as minisign prints it.
func (k PublicKey) ID() string { return keyID(k.number) }

func keyID(number [8]byte) string {
	return fmt.Sprintf("%016X", binary.LittleEndian.Uint64(number[:]))
}

// ParsePublicKey takes the path of a public key's file, or the base64 line that is in one.
func ParsePublicKey(pathOrLine string) (PublicKey, error) {
	raw, err := base64.StdEncoding.DecodeString(pathOrLine)
	if err != nil {
		text, err := os.ReadFile(pathOrLine)
		if err != nil {
			return PublicKey{}, fmt.Errorf("a public key cannot be read: %w; see the plugin's configuration", err)
		}
		raw, _ = keyBytes(text)
	}
	if len(raw) != 42 || string(raw[:2]) != algorithm {
		return PublicKey{}, fmt.Errorf("%s is no public key of signify or minisign", clip(pathOrLine))
	}
	return PublicKey{number: [8]byte(raw[2:10]), key: ed25519.PublicKey(raw[10:])}, nil
}

// keyBytes are the first line that is no comment.
func keyBytes(text []byte) ([]byte, error) {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "untrusted comment:") {
			return base64.StdEncoding.DecodeString(line)
		}
	}
	return nil, errors.New("no line but comments")
}

// signature is a parsed one.
type signature struct {
	algorithm string
	number    [8]byte
	bytes     []byte
	comment   string // minisign's trusted comment
	global    []byte // signature of bytes and comment; nil for signify
}

const trustedComment = "trusted comment: "

func parseSignature(text []byte) (signature, error) {
	raw, err := keyBytes(text)
	if err != nil || len(raw) != 74 || string(raw[:2]) != algorithm && string(raw[:2]) != algorithmPrehashed {
		return signature{}, errors.New("its signature is none of signify or minisign; sign the manifest again")
	}
	s := signature{algorithm: string(raw[:2]), number: [8]byte(raw[2:10]), bytes: raw[10:]}
	_, rest, ok := strings.Cut(string(text), "\n"+trustedComment)
	if !ok {
		return s, nil
	}
	comment, global, _ := strings.Cut(rest, "\n")
	s.comment = strings.TrimRight(comment, "\r")
	if s.global, err = base64.StdEncoding.DecodeString(strings.TrimSpace(global)); err != nil || len(s.global) != ed25519.SignatureSize {
		return signature{}, errors.New("its signature has a trusted comment that is not signed; sign the manifest again")
	}
	return s, nil
}

// verify returns the ID of the key that signed message.
func verify(message, text []byte, keys []PublicKey) (string, error) {
	s, err := parseSignature(text)
	if err != nil {
		return "", err
	}
	var known []string
	for _, k := range keys {
		if k.number == s.number {
			return k.ID(), s.verify(message, k)
		}
		known = append(known, k.ID())
	}
	return "", fmt.Errorf("it is signed with the key %s and this host trusts %s; sign it with one of these, or add the key to the plugin's configuration",
		keyID(s.number), strings.Join(known, ", "))
}

func (s signature) verify(message []byte, k PublicKey) error {
	if s.algorithm == algorithmPrehashed {
		sum := blake2b.Sum512(message)
		message = sum[:]
	}
	ok := ed25519.Verify(k.key, message, s.bytes)
	if s.global != nil {
		ok = ok && ed25519.Verify(k.key, append(bytes.Clone(s.bytes), s.comment...), s.global)
	}
	if !ok {
		return fmt.Errorf("its signature by the key %s is not of this manifest: one of them has been changed; sign it again", k.ID())
	}
	return nil
}

// trust are the keys whose signatures a host wants.
type trust []PublicKey

func newTrust(keys []string) (trust, error) {
	var t trust
	for _, text := range keys {
		k, err := ParsePublicKey(text)
		if err != nil {
			return nil, err
		}
		t = append(t, k)
	}
	return t, nil
}

// accepts tells of an image that is here already. One built here needs no signature; one without a name may have been pulled.
func (t trust) accepts(img Image) bool {
	built := img.Reference.Base == "" && (img.Reference.Name != "" || strings.HasPrefix(img.ID, builtPrefix))
	return len(t) == 0 || built || slices.ContainsFunc(t, func(k PublicKey) bool { return k.ID() == img.SignedBy })
}

// SecretKey signs. It is kept in signify's form without a passphrase (signify -G -n).
type SecretKey struct {
	number [8]byte
	key    ed25519.PrivateKey
}

// Public is the key's other half.
func (k SecretKey) Public() PublicKey {
	return PublicKey{number: k.number, key: k.key.Public().(ed25519.PublicKey)}
}

const (
	signifySecretLength  = 2 + 2 + 4 + 16 + 8 + 8 + 64
	minisignSecretLength = 2 + 2 + 2 + 32 + 8 + 8 + 8 + 64 + 32
)

// ReadSecretKey takes signify's and minisign's secret keys that have no passphrase.
func ReadSecretKey(path string) (SecretKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return SecretKey{}, err
	}
	raw, err := keyBytes(text)
	locked := fmt.Errorf("%s is locked by a passphrase; sign with the program that made it: signify -S -s KEY -m NAME_TAG.json -x NAME_TAG.json.sig", path)
	switch {
	case err == nil && len(raw) == signifySecretLength && string(raw[:4]) == "EdBK":
		if binary.BigEndian.Uint32(raw[4:]) != 0 {
			return SecretKey{}, locked
		}
		sum := sha512.Sum512(raw[40:])
		if !bytes.Equal(sum[:8], raw[24:32]) {
			return SecretKey{}, fmt.Errorf("%s is damaged: its checksum is wrong", path)
		}
		return SecretKey{number: [8]byte(raw[32:40]), key: ed25519.PrivateKey(raw[40:])}, nil
	case err == nil && len(raw) == minisignSecretLength && string(raw[:2]) == algorithm:
		if raw[2] != 0 || raw[3] != 0 {
			return SecretKey{}, locked
		}
		return SecretKey{number: [8]byte(raw[54:62]), key: ed25519.PrivateKey(raw[62:126])}, nil
	}
	return SecretKey{}, fmt.Errorf("%s is no secret key of signify or minisign", path)
}

// GenerateKey makes a pair of keys: PATH.sec, which only its owner can read, and PATH.pub.
func GenerateKey(path string) (SecretKey, error) {
	for _, suffix := range []string{".sec", ".pub"} {
		if _, err := os.Lstat(path + suffix); err == nil {
			return SecretKey{}, fmt.Errorf("%s is there already; give the new key another name", path+suffix)
		}
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return SecretKey{}, err
	}
	k := SecretKey{key: private}
	rand.Read(k.number[:])
	sum := sha512.Sum512(private)
	secret := bytes.Join([][]byte{[]byte("EdBK"), make([]byte, 4+16), sum[:8], k.number[:], private}, nil)
	public := bytes.Join([][]byte{[]byte(algorithm), k.number[:], k.Public().key}, nil)
	for _, f := range []struct {
		path, what string
		data       []byte
		mode       os.FileMode
	}{{path + ".sec", "secret", secret, 0o600}, {path + ".pub", "public", public, 0o644}} {
		out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if err != nil {
			return SecretKey{}, err
		}
		_, err = out.Write(commented(filepath.Base(path)+" "+f.what+" key", f.data))
		if err := errors.Join(err, out.Close()); err != nil {
			return SecretKey{}, err
		}
	}
	return k, nil
}

func commented(comment string, data []byte) []byte {
	return fmt.Appendf(nil, "untrusted comment: %s\n%s\n", comment, base64.StdEncoding.EncodeToString(data))
}

// sign is what signify would write.
func (k SecretKey) sign(message []byte) []byte {
	data := bytes.Join([][]byte{[]byte(algorithm), k.number[:], ed25519.Sign(k.key, message)}, nil)
	return commented("verify with the public key "+k.Public().ID(), data)
}
