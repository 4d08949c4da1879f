package main

import (
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/image/command"
)

func TestWrongUsageIs2(t *testing.T) {
	for _, args := range [][]string{{"restart"}, {"--color"}, {"ps", "web"}, {"doctor", "--color"}, {"gc", "--grace", "long"}, {"image", "list", "--color"}} {
		_, _, err := runCommandLine(t, args...)
		if err == nil || command.ExitCode(err) != 2 {
			t.Errorf("%q: %v", args, err)
		}
	}
}
