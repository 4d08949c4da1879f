package driver

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// TestExecKeepsTheEnd has a script check print more than anybody reads.
func TestExecKeepsTheEnd(t *testing.T) {
	h, _ := harness(t)
	cfg := newTaskConfig(t, h, "sleep 1000")
	startTask(t, h, cfg)
	const script = `i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 4`
	r, err := h.ExecTask(cfg.ID, []string{"/bin/sh", "-c", script}, time.Minute)
	if err != nil || r.ExitResult.ExitCode != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	for what, got := range map[string]string{"out": string(r.Stdout), "err": string(r.Stderr)} {
		if len(got) != drivers.CheckBufSize || !strings.HasSuffix(got, "\n"+what+" 2998\n"+what+" 2999\n") {
			t.Errorf("of std%s there are %d bytes, to %q", what, len(got), got[max(0, len(got)-30):])
		}
	}
}
