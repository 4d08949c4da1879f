package launch

import "os"

// openTerminal: FreeBSD's terminals are the same in every devfs, as far as its ruleset shows them.
func openTerminal(string) (master, slave *os.File, err error) { return hostTerminal() }
