package image

import (
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRemovedLocks has holders remove their locks while others take them: nobody has one that another has.
func TestRemovedLocks(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	var holders atomic.Int32
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				l, err := tryLock(dir, "pull-1")
				if err != nil {
					t.Error(err)
					return
				}
				if l == nil {
					continue
				}
				if n := holders.Add(1); n > 1 {
					t.Errorf("%d hold the lock", n)
				}
				time.Sleep(10 * time.Microsecond)
				holders.Add(-1)
				os.Remove(l.file.Name())
				l.release()
			}
		})
	}
	wg.Wait()
}

// TestLocksGo looks for what pulls have left in the folder of locks.
func TestLocksGo(t *testing.T) {
	dir, _ := publish(t, "tar", "web:1", makeTree(t, 1000), BuildOptions{})
	h := newHost(t, "tar", Options{})
	if _, err := h.Ensure(t.Context(), newRegistry(t, dir).ref(t, "web:1"), EnsureOptions{}); err != nil {
		t.Fatal(err)
	}
	locks := h.options(Options{}).LockDir
	held, err := tryLock(locks, "pull-2")
	if held == nil {
		t.Fatal(err)
	}
	defer held.release()
	if err := h.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(locks)
	if err != nil || len(entries) != 3 || entries[0].Name() != "pull-2" || entries[1].Name() != storeLock || entries[2].Name() != "used" {
		t.Errorf("left are %v, %v", entries, err)
	}
}
