package network

import "testing"

func TestReach(t *testing.T) { reach(t, newHost(t)) }
