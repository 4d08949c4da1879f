package image

import "testing"

func TestNewerRelease(t *testing.T) {
	for _, c := range []struct {
		image, host string
		newer       bool
	}{
		{"12.2-RELEASE", "12.2-RELEASE-p3", false},
		{"12.3-RELEASE", "12.2-RELEASE", true},
		{"12.10", "12.2-RELEASE", true},
		{"11.4-RELEASE", "12.2-RELEASE", false},
		{"14.0-CURRENT", "13.2-RELEASE", true},
		{"9.9-RELEASE", "14.3-STABLE", false},
		{"", "12.2-RELEASE", false},
		{"bookworm", "12.2-RELEASE", false},
		{"12.2-RELEASE", "", false},
	} {
		if got := newerRelease(c.image, c.host); got != c.newer {
			t.Errorf("image of %q on a host of %q: newer is %v, want %v", c.image, c.host, got, c.newer)
		}
	}
}
