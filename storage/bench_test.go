package storage

import (
	"bytes"
	"fmt"
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

// BenchmarkReceive is the floor of a pull.
func BenchmarkReceive(b *testing.B) {
	z := newZFS(b)
	var files []string
	for n := range 100 {
		files = append(files, fmt.Sprint("file", n), content)
	}
	makeImage(b, z, "i", "", nil, files...)
	data := stream(b, z, "", "i")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := z.Receive(b.Context(), "t", "", bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := z.Discard(b.Context(), "t"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
