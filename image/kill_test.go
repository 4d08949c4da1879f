package image

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestKilled kills a process in the middle of its pull. The next start removes what it left, and another pull succeeds.
func TestKilled(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, m := publish(t, kind, "web:1", makeTree(t, 4<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{})
		before := h.state(t)
		halfway := make(chan struct{}, 1)
		r.misbehave(onlyFiles(".zst", func(w http.ResponseWriter, req *http.Request, good http.Handler) {
			data := fetch(good, req.URL.Path)
			w.Write(data[:len(data)/2])
			http.NewResponseController(w).Flush()
			select {
			case halfway <- struct{}{}:
			default:
			}
			<-req.Context().Done()
		}))
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), pullerVariable+"="+strings.Join([]string{h.kind, h.dataset, h.dir, r.url + "/web:1"}, " "))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-halfway
		time.Sleep(100 * time.Millisecond) // into the receive
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if images, err := h.List(t.Context()); err != nil || len(images) != 0 {
			t.Errorf("half an image is visible: %v, %v", images, err)
		}
		// What the killed one had begun to receive goes by itself, or with the next start.
		for deadline := time.Now().Add(20 * time.Second); h.state(t) != before; time.Sleep(50 * time.Millisecond) {
			if err := h.Sweep(t.Context()); err != nil && time.Now().After(deadline) {
				t.Error(err)
			}
			if time.Now().After(deadline) {
				t.Fatalf("left over from\n%s is\n%s", before, h.state(t))
			}
		}
		r.misbehave(nil)
		if img, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil || digestPrefix+img.ID != m.Digest {
			t.Errorf("%v, %v", img.ID, err)
		}
	})
}

// TestGivenUp has all who wait for a pull go away: it ends, and leaves nothing.
func TestGivenUp(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		dir, _ := publish(t, kind, "web:1", makeTree(t, 4<<20), BuildOptions{})
		r := newRegistry(t, dir)
		h := newHost(t, kind, Options{Limits: Limits{Stall: time.Hour}})
		before := h.state(t)
		r.misbehave(onlyFiles(".zst", stop))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := h.Ensure(ctx, r.ref(t, "web:1"), EnsureOptions{}); err == nil {
			t.Error("it does not end")
		}
		for deadline := time.Now().Add(20 * time.Second); h.state(t) != before; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("left over from\n%s is\n%s", before, h.state(t))
			}
		}
		r.misbehave(nil)
		if _, err := h.Ensure(t.Context(), r.ref(t, "web:1"), EnsureOptions{}); err != nil {
			t.Error(err)
		}
	})
}
