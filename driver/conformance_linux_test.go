package driver

import (
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers/testutils"
)

func execConformance(t *testing.T, h *testutils.DriverHarness, taskID string) {
	testutils.ExecTaskStreamingConformanceTests(t, h, taskID)
}

const terminalName = "tty"
