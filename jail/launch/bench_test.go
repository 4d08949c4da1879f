package launch

import (
	"context"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/nomad-driver-jail/nomad-driver-jail/jail"
)

// BenchmarkStart is one task from Create to its first process running, BenchmarkStart20 twenty at once, and BenchmarkBareExec what
// the first process alone takes with no jail, no shim and nothing to find it again by.
func BenchmarkStart(b *testing.B) { benchmarkStart(b, 1) }

func BenchmarkStart20(b *testing.B) { benchmarkStart(b, 20) }

func benchmarkStart(b *testing.B, tasks int) {
	root := testRoot(b)
	for range b.N {
		b.StopTimer()
		specs := make([]jail.Spec, tasks)
		dirs := make([]string, tasks)
		for i := range specs {
			specs[i] = jail.Spec{Name: randomName(), Root: root, Command: "/bin/sleep", Args: []string{"1000"}, Dir: "/"}
			dirs[i] = filepath.Join(b.TempDir(), specs[i].Name)
		}
		b.StartTimer()
		var group sync.WaitGroup
		for i := range specs {
			group.Go(func() {
				if _, err := jail.Create(specs[i]); err != nil {
					b.Error(err)
				}
				if _, err := Start(context.Background(), shim, dirs[i], specs[i]); err != nil {
					b.Error(err)
				}
			})
		}
		group.Wait()
		b.StopTimer()
		for i := range specs {
			if err := jail.Remove(specs[i].Name); err != nil {
				b.Error(err)
			}
		}
		b.StartTimer()
	}
}

func BenchmarkBareExec(b *testing.B) {
	for range b.N {
		cmd := exec.Command("/bin/sleep", "1000")
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.StartTimer()
	}
}
