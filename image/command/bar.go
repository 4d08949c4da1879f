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
	cmd   *cobra.Command
	what  string
	quiet bool
	bar   *progressbar.ProgressBar // nil where there is no terminal
	last  image.Progress
	told  image.Progress // by the last line
	began time.Time
	next  time.Time // of the next line
}

const lineInterval = 5 * time.Second

func (a *app) newBar(cmd *cobra.Command, what string) *bar {
	b := &bar{cmd: cmd, what: what, quiet: a.json, began: time.Now()}
	b.next = b.began.Add(lineInterval)
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) && !b.quiet {
		b.bar = progressbar.NewOptions64(1, progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what),
			progressbar.OptionShowBytes(true), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
		b.bar.StartWithoutRender() // its rates are since now, not since the first bytes are there
	}
	return b
}

func (b *bar) update(p image.Progress) {
	b.last = p
	switch {
	case b.quiet:
	case b.bar != nil:
		b.bar.ChangeMax64(p.Total)
		b.bar.Set64(p.Bytes)
	case time.Now().After(b.next):
		b.next = time.Now().Add(lineInterval)
		b.line()
	}
}

func (b *bar) line() {
	b.told = b.last
	rate := float64(b.last.Bytes) / max(time.Since(b.began).Seconds(), 0.001)
	fmt.Fprintf(b.cmd.ErrOrStderr(), "%s: %s of %s, %s/s\n", b.what, mib(b.last.Bytes), mib(b.last.Total), mib(int64(rate)))
}

// end tells how it went, where there was anything to tell of.
func (b *bar) end() {
	if b.quiet || b.last == b.told {
		return
	}
	if b.bar != nil {
		b.bar.Clear()
	}
	b.line()
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
