package storage

import (
	"strings"
	"unicode"
)

// Clip is for a text in a message that a stranger chose: at most n bytes of it, in one line, and nothing that a terminal obeys.
func Clip(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "") + "…"
	}
	return printable(s)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}

// Clipped is an error in whose text a stranger may have a part.
func Clipped(err error) error { return &clipped{err} }

type clipped struct{ error }

func (c *clipped) Unwrap() error { return c.error }

// Error leaves out the middle: what it is about stands before, and the reason behind.
func (c *clipped) Error() string {
	const half = 300
	s := c.error.Error()
	if len(s) > 2*half {
		s = strings.ToValidUTF8(s[:half], "") + "…" + strings.ToValidUTF8(s[len(s)-half:], "")
	}
	return printable(s)
}
