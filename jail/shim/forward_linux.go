package main

// forwardHost has nothing to do: nftables redirects what the host says to itself.
func forwardHost(string) int { return 2 }
