//go:build !faults

package driver

// fault is where the chaos tests end the process; in a plugin for use it is nothing.
func fault(string, string) {}
