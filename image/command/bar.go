package command

import (
	"fmt"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/nomad-driver-jail/nomad-driver-jail/image"
)

// bar shows progress on stderr: a bar on a terminal, else a line now and then. With --json it shows nothing.
type bar struct {
	cmd      *cobra.Command
	what     string
	quiet    bool
	terminal bool
	bar      *progressbar.ProgressBar
	last     image.Progress
	began    time.Time
	next     time.Time
}

const lineInterval = 5 * time.Second

func (a *app) newBar(cmd *cobra.Command, what string) *bar {
	f, ok := cmd.ErrOrStderr().(*os.File)
	return &bar{cmd: cmd, what: what, quiet: a.json, terminal: ok && term.IsTerminal(int(f.Fd())), began: time.Now()}
}

func (b *bar) update(p image.Progress) {
	b.last = p
	switch {
	case b.quiet:
	case b.terminal:
		if b.bar == nil {
			b.bar = progressbar.NewOptions64(p.Total, progressbar.OptionSetWriter(b.cmd.ErrOrStderr()), progressbar.OptionSetDescription(b.what),
				progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		}
		b.bar.ChangeMax64(p.Total)
		b.bar.Set64(p.Bytes)
	case time.Now().After(b.next):
		b.next = time.Now().Add(lineInterval)
		b.line()
	}
}

func (b *bar) line() {
	rate := float64(b.last.Bytes) / max(time.Since(b.began).Seconds(), 0.001)
	fmt.Fprintf(b.cmd.ErrOrStderr(), "%s: %s of %s, %s/s\n", b.what, mib(b.last.Bytes), mib(b.last.Total), mib(int64(rate)))
}

// end tells how it went, where there was anything to tell of.
func (b *bar) end() {
	if b.quiet || b.last.Total == 0 {
		return
	}
	if b.bar != nil {
		b.bar.Clear()
	}
	b.line()
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
