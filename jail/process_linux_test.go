package jail

import (
	"os"
	"testing"
)

func TestParseBirth(t *testing.T) {
	const rest = " S 4 11 11 0 -1 4194560 93 0 0 0 0 0 0 0 20 0 1 0 490211 4427776 1 18446744073709551615 0"
	for _, name := range []string{"sleep", "a) S 1 (b", "two words"} {
		if got, err := parseBirth([]byte("11 (" + name + ")" + rest)); err != nil || got != 490211 {
			t.Errorf("%q: %d %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "11 (sleep", "11 (sleep) S 4"} {
		if _, err := parseBirth([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if birth, err := Birth(os.Getpid()); err != nil || birth == 0 {
		t.Errorf("own birth %d %v", birth, err)
	}
}
