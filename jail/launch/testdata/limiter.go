// Command limiter tries to take away the init process's right to write files.
package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func main() { fmt.Println(unix.Prlimit(1, unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil)) }
