package image

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// noisyPot is a registry with the pot hello:1.0, and its stream.
func noisyPot(t *testing.T) (*registry, []byte) {
	t.Helper()
	p := newPotMaker(t)
	noise := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{8}).Read(noise)
	p.make(t, "hello", "1.0", helloConf, "-", "", map[string]string{"etc/motd": "first\n", "var/noise": string(noise)})
	return newRegistry(t, p.dir), read(t, p.dir+"/hello_1.0.xz")
}

// TestPotCuts has a pot's connection dropped at each tenth: it goes on there, or starts again where the server has no ranges,
// and gives up on one that always breaks there.
func TestPotCuts(t *testing.T) {
	r, stream := noisyPot(t)
	h := newHost(t, "zfs", Options{OS: "freebsd"})
	hasty := New(h.backend(), h.options(Options{OS: "freebsd", Limits: impatient}))
	before := h.state(t)
	for tenth := range 10 {
		at := len(stream) * tenth / 10
		for name, fault := range map[string]fault{"with ranges": cut(".xz", at, 1), "without ranges": withoutRanges(cut(".xz", at, 1))} {
			r.misbehave(fault)
			asked := r.count("/hello_1.0.xz")
			img, err := h.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
			if err != nil {
				t.Fatalf("cut at %d tenths, %s: %v", tenth, name, err)
			}
			requests := 2
			if name == "without ranges" && tenth > 0 {
				requests = 3 // one shows that there are none
			}
			if n := r.count("/hello_1.0.xz") - asked; n != requests {
				t.Errorf("cut at %d tenths, %s: %d requests, want %d", tenth, name, n, requests)
			}
			if err := h.Remove(t.Context(), img); err != nil {
				t.Fatal(err)
			}
		}
		r.misbehave(withoutRanges(cut(".xz", at, always)))
		_, err := hasty.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
		h.refused(t, err, fmt.Sprintf("image hello:1.0: its stream broke off after %d of %d bytes", at, len(stream)), before, prefix)
	}
}

func TestPotSlowAndEndless(t *testing.T) {
	r, stream := noisyPot(t)
	limit := int64(len(stream)) + 40<<20
	h := newHost(t, "zfs", Options{OS: "freebsd", Limits: Limits{Retry: impatient.Retry, Stall: 500 * time.Millisecond, Stream: limit}})
	before := h.state(t)
	tooLong := fmt.Sprintf("image hello:1.0: its stream is too long: the registry's file has more than %d bytes, and this host accepts no more", limit)
	for _, c := range []struct {
		name     string
		fault    fault
		sentence string
	}{
		{"trickles", onlyFiles(".xz", trickle), "bytes: it comes too slowly, less than 64 KiB in 500ms; see the registry's log"},
		{"stops", onlyFiles(".xz", stop), "bytes: it comes too slowly, less than 64 KiB in 500ms; see the registry's log"},
		{"endless garbage", onlyFiles(".xz", garbage), tooLong},
		{"endless repetition", onlyFiles(".xz", endless), "image hello:1.0: its stream"},
		{"says that it is endless", onlyFiles(".xz", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", strconv.FormatInt(limit+1, 10))
			garbage(w, r, nil)
		}), tooLong},
		{"skein is endless", onlyFiles(".skein", garbage), "hello_1.0.xz.skein is larger than 65536 bytes; it is none of ours"},
		{"redirects in circles", onlyFiles(".xz", func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			http.Redirect(w, req, req.URL.Path, http.StatusFound)
		}), "image hello:1.0: the registry redirects more than 5 times, last to " + r.url + "/hello_1.0.xz; give the URL that it ends at"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.misbehave(c.fault)
			_, err := h.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
			h.refused(t, err, c.sentence, before, infix)
		})
	}
}

// TestPotIsNoStream has more behind what cannot be unpacked than is worth a verdict.
func TestPotIsNoStream(t *testing.T) {
	r, _ := noisyPot(t)
	r.misbehave(onlyFiles(".xz", garbage))
	h := newHost(t, "zfs", Options{OS: "freebsd"})
	before := h.state(t)
	_, err := h.Ensure(t.Context(), r.ref(t, "hello:1.0"), EnsureOptions{})
	h.refused(t, err, "image hello:1.0: its stream cannot be unpacked: ", before, prefix)
}

// garbage is endless.
func garbage(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	block := bytes.Repeat([]byte("x"), 1<<20)
	for r.Context().Err() == nil {
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}
