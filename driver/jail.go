package driver

import (
	"fmt"
	"net/netip"
	"strings"
)

func (p pair) String() string { return p.Source + ":" + p.Target }

// cutFolder takes folder off the front of a relative path; what is left is "." for the folder itself.
func cutFolder(path, folder string) (string, bool) {
	if path == folder {
		return ".", true
	}
	return strings.CutPrefix(path, folder+"/")
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// parseAddr gives the zero address, which stands for all of them, for what is none.
func parseAddr(s string) netip.Addr {
	a, _ := netip.ParseAddr(s)
	return a
}

var _ fmt.Stringer = pair{}
