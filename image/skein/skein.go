// Package skein is Skein-1024 with 1024 bits of output, as skein1024(1) prints it, after "The Skein Hash Function Family",
// version 1.3, by Ferguson and others. Section numbers are that paper's.
package skein

import (
	"encoding/binary"
	"hash"
	"math/bits"
)

const (
	// Size is of a sum, BlockSize of the cipher's block, both in bytes.
	Size      = 128
	BlockSize = 128

	words  = BlockSize / 8
	rounds = 80
)

// rotations are Threefish-1024's (table 4), one row per round modulo 8.
var rotations = [8][words / 2]int{
	{24, 13, 8, 47, 8, 17, 22, 37},
	{38, 19, 10, 55, 49, 18, 23, 52},
	{33, 4, 51, 13, 34, 41, 59, 17},
	{5, 20, 48, 41, 47, 28, 16, 25},
	{41, 9, 37, 31, 12, 47, 44, 30},
	{16, 34, 56, 51, 4, 53, 42, 41},
	{31, 44, 47, 46, 19, 42, 44, 25},
	{9, 48, 35, 52, 23, 31, 37, 20},
}

const parity = 0x1BD11BDAA9FC1A22 // C240, section 3.3.2

// Types of blocks (table 6), and the tweak's flags, in its second word.
const (
	typeConfig  = 4 << 56
	typeMessage = 48 << 56
	typeOutput  = 63 << 56
	first       = 1 << 62
	final       = 1 << 63
)

type digest struct {
	chain  [words]uint64
	tweak  [2]uint64
	buffer [BlockSize]byte
	length int // bytes in buffer; a full one waits, for it may be the last
}

// New is a hash.Hash of Skein-1024-1024.
func New() hash.Hash {
	d := &digest{}
	d.Reset()
	return d
}

func (d *digest) Size() int      { return Size }
func (d *digest) BlockSize() int { return BlockSize }

// Reset begins with the configuration's block (section 3.5.2): schema, version 1, bits of output, no tree.
func (d *digest) Reset() {
	*d = digest{}
	var config [BlockSize]byte
	copy(config[:], "SHA3\x01")
	binary.LittleEndian.PutUint64(config[8:], 8*Size)
	d.tweak = [2]uint64{32, typeConfig | first | final}
	d.block(&config)
	d.tweak = [2]uint64{0, typeMessage | first}
}

func (d *digest) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if d.length == BlockSize {
			d.tweak[0] += BlockSize
			d.block(&d.buffer)
			d.tweak[1] &^= first
			d.length = 0
		}
		copied := copy(d.buffer[d.length:], p)
		d.length += copied
		p = p[copied:]
	}
	return n, nil
}

func (d *digest) Sum(in []byte) []byte {
	last := *d
	clear(last.buffer[last.length:])
	last.tweak[0] += uint64(last.length)
	last.tweak[1] |= final
	last.block(&last.buffer)
	last.tweak = [2]uint64{8, typeOutput | first | final}
	last.block(new([BlockSize]byte)) // the output's counter, which is 0
	for _, w := range last.chain {
		in = binary.LittleEndian.AppendUint64(in, w)
	}
	return in
}

// block is one step of UBI (section 3.4): Threefish with the chaining value as its key, and the plain text added after.
func (d *digest) block(plain *[BlockSize]byte) {
	// The key's words, repeated so that no round has to divide (section 3.3.2).
	var key [rounds/4 + words + 1]uint64
	key[words] = parity
	for i, w := range d.chain {
		key[i] = w
		key[words] ^= w
	}
	for i := words + 1; i < len(key); i++ {
		key[i] = key[i-words-1]
	}
	tweak := [3]uint64{d.tweak[0], d.tweak[1], d.tweak[0] ^ d.tweak[1]}
	var text, x [words]uint64
	for i := range text {
		text[i] = binary.LittleEndian.Uint64(plain[8*i:])
	}
	x = text
	for s := 0; s < rounds/4; s += 2 {
		addSubkey(&x, (*[words]uint64)(key[s:]), &tweak, s)
		fourRounds(&x, (*[4][words / 2]int)(rotations[:4]))
		addSubkey(&x, (*[words]uint64)(key[s+1:]), &tweak, s+1)
		fourRounds(&x, (*[4][words / 2]int)(rotations[4:]))
	}
	addSubkey(&x, (*[words]uint64)(key[rounds/4:]), &tweak, rounds/4)
	for i := range d.chain {
		d.chain[i] = x[i] ^ text[i]
	}
}

// addSubkey adds subkey s (section 3.3.2).
func addSubkey(x, key *[words]uint64, tweak *[3]uint64, s int) {
	for i := range x {
		x[i] += key[i]
	}
	x[words-3] += tweak[s%3]
	x[words-2] += tweak[(s+1)%3]
	x[words-1] += uint64(s)
}

// fourRounds mixes where the words are: after each round the paper permutes them (table 3), and after four they are back in
// their places.
func fourRounds(x *[words]uint64, r *[4][words / 2]int) {
	x[0], x[1] = mix(x[0], x[1], r[0][0])
	x[2], x[3] = mix(x[2], x[3], r[0][1])
	x[4], x[5] = mix(x[4], x[5], r[0][2])
	x[6], x[7] = mix(x[6], x[7], r[0][3])
	x[8], x[9] = mix(x[8], x[9], r[0][4])
	x[10], x[11] = mix(x[10], x[11], r[0][5])
	x[12], x[13] = mix(x[12], x[13], r[0][6])
	x[14], x[15] = mix(x[14], x[15], r[0][7])
	x[0], x[9] = mix(x[0], x[9], r[1][0])
	x[2], x[13] = mix(x[2], x[13], r[1][1])
	x[6], x[11] = mix(x[6], x[11], r[1][2])
	x[4], x[15] = mix(x[4], x[15], r[1][3])
	x[10], x[7] = mix(x[10], x[7], r[1][4])
	x[12], x[3] = mix(x[12], x[3], r[1][5])
	x[14], x[5] = mix(x[14], x[5], r[1][6])
	x[8], x[1] = mix(x[8], x[1], r[1][7])
	x[0], x[7] = mix(x[0], x[7], r[2][0])
	x[2], x[5] = mix(x[2], x[5], r[2][1])
	x[4], x[3] = mix(x[4], x[3], r[2][2])
	x[6], x[1] = mix(x[6], x[1], r[2][3])
	x[12], x[15] = mix(x[12], x[15], r[2][4])
	x[14], x[13] = mix(x[14], x[13], r[2][5])
	x[8], x[11] = mix(x[8], x[11], r[2][6])
	x[10], x[9] = mix(x[10], x[9], r[2][7])
	x[0], x[15] = mix(x[0], x[15], r[3][0])
	x[2], x[11] = mix(x[2], x[11], r[3][1])
	x[6], x[13] = mix(x[6], x[13], r[3][2])
	x[4], x[9] = mix(x[4], x[9], r[3][3])
	x[14], x[1] = mix(x[14], x[1], r[3][4])
	x[8], x[5] = mix(x[8], x[5], r[3][5])
	x[10], x[3] = mix(x[10], x[3], r[3][6])
	x[12], x[7] = mix(x[12], x[7], r[3][7])
}

func mix(x, y uint64, rotation int) (uint64, uint64) {
	x += y
	return x, bits.RotateLeft64(y, rotation) ^ x
}
