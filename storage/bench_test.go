package storage

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// BenchmarkClone is what a task's start waits for.
func BenchmarkClone(b *testing.B) {
	z := newZFS(b)
	makeImage(b, z, "i", "", nil, "file", content)
	for _, many := range []int{1, 20} {
		b.Run(fmt.Sprint(many), func(b *testing.B) {
			for round := 0; b.Loop(); round++ {
				var group sync.WaitGroup
				for n := range many {
					group.Go(func() {
						if _, err := z.Clone(b.Context(), "i", fmt.Sprintf("nj%d-%d", round, n), CloneOptions{TaskID: "t"}); err != nil {
							b.Error(err)
						}
					})
				}
				group.Wait()
				b.StopTimer()
				for n := range many {
					removeTask(b, z, fmt.Sprintf("nj%d-%d", round, n))
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkReceive compares with the bare command, which reads a file.
func BenchmarkReceive(b *testing.B) {
	z := newZFS(b)
	var files []string
	for n := range 200 {
		files = append(files, fmt.Sprint("file", n), content)
	}
	makeImage(b, z, "i", "", nil, files...)
	data := stream(b, z, "", "i")
	file := filepath.Join(b.TempDir(), "stream")
	write(b, file, string(data))
	for _, way := range []struct {
		name    string
		receive func() error
	}{
		{"ours", func() error { return z.Receive(b.Context(), "t", "", bytes.NewReader(data)) }},
		{"floor", func() error {
			return exec.Command("sh", "-c", `cat "$2" | zfs receive -u "$1"`, "sh", string(z.temporary("t")), file).Run()
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if err := way.receive(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := z.Discard(b.Context(), "t"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
