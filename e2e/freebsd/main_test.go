package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// console has script play a guest on real pipes, from which converse reads and to which it types.
func console(t *testing.T, silence time.Duration, script func(say func(string), typed func() string)) (status string, err error) {
	t.Helper()
	out, say, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	typed, keyboard, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer keyboard.Close()
	go func() {
		defer say.Close()
		lines := bufio.NewReader(typed)
		script(func(s string) { fmt.Fprint(say, s) }, func() string {
			line, _ := lines.ReadString('\n')
			return line
		})
	}()
	return converse(out, keyboard, talk(time.Hour), silence)
}

func TestConverse(t *testing.T) {
	var typed []string
	const silence = 300 * time.Millisecond
	status, err := console(t, silence, func(say func(string), heard func() string) {
		for range 2 {
			say("FreeBSD/amd64 (ci) (ttyu0)\r\n\r\nlogin: ")
			typed = append(typed, heard())
			say("Welcome to FreeBSD!\r\nroot@ci:~ # ")
			typed = append(typed, heard())
			say("\r\n# ")
			typed = append(typed, heard())
		}
		time.Sleep(2 * silence) // a long test
		say("=== driver\r\nlogin: Password:\r\nstatus=3\r\nUptime: 1m\r\n")
	})
	if status != "3" || err != nil {
		t.Errorf("status %q, %v", status, err)
	}
	if len(typed) != 6 || typed[3] != "root\n" || !strings.Contains(typed[2], "reboot") || !strings.Contains(typed[5], "timeout --foreground 3240 sh ./run") {
		t.Errorf("typed %q", typed)
	}
}

func TestImageWithoutConsole(t *testing.T) {
	done := make(chan bool)
	defer close(done)
	_, err := console(t, 50*time.Millisecond, func(say func(string), _ func() string) {
		say("UEFI firmware\r\n")
		<-done
	})
	if err == nil || !strings.Contains(err.Error(), "no console on its serial port") {
		t.Errorf("%v", err)
	}
}

func TestImageWithPassword(t *testing.T) {
	done := make(chan bool)
	defer close(done)
	_, err := console(t, time.Minute, func(say func(string), typed func() string) {
		say("login: ")
		typed()
		say("Password:")
		<-done
	})
	if err == nil || !strings.Contains(err.Error(), "root has a password") {
		t.Errorf("%v", err)
	}
}
