package storage

import "os"

// growPipe has nothing to do: FreeBSD's pipes grow by themselves.
func growPipe(*os.File) {}
