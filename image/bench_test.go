package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// benchSize is of the image that is pulled, in bytes.
const benchSize = 500 << 20

// makeLargeTree makes files like those of a root file system: most compress to about a third.
func makeLargeTree(b *testing.B, size int) string {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "root")
	random := rand.New(rand.NewChaCha8([32]byte{1}))
	var words [4096]string
	for i := range words {
		words[i] = strconv.FormatUint(random.Uint64(), 36)[:2+random.IntN(9)]
	}
	for i := 0; size > 0; i++ {
		data := make([]byte, 0, 4<<20)
		for n := 1 << (12 + random.IntN(11)); len(data) < n; {
			data = append(append(data, words[random.IntN(random.IntN(len(words))+1)]...), byte(random.IntN(4)))
		}
		size -= len(data)
		path := filepath.Join(dir, fmt.Sprint(i%50), fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	return dir
}

// BenchmarkPull compares, in turns, a pull by a running process of its own with the floor, `zstd -dc FILE | zfs receive` from the local
// disk, and with the three passes of a download to a file, a hash of it, and zstd and receive from it: once from a registry
// that is as fast as this machine, and once each from one behind a network of 1 and of 2.5 gigabits a second.
func BenchmarkPull(b *testing.B) {
	dir, m := publish(b, "zfs", "web:1", makeLargeTree(b, benchSize), BuildOptions{})
	b.Logf("%d MiB, %d MiB compressed", m.UncompressedSize>>20, m.Size>>20)
	b.Run("loopback", func(b *testing.B) { benchmarkPull(b, dir, m, nil) })
	b.Run("gigabit", func(b *testing.B) { benchmarkPull(b, dir, m, paced(125e6)) })
	b.Run("2.5gigabit", func(b *testing.B) { benchmarkPull(b, dir, m, paced(312.5e6)) })
}

func benchmarkPull(b *testing.B, dir string, m Manifest, pace fault) {
	file, download := filepath.Join(dir, "web_1.zfs.zst"), filepath.Join(b.TempDir(), "download")
	r := newRegistry(b, dir)
	r.misbehave(pace)
	h := newHost(b, "zfs", Options{})
	var floor, pulled, three []time.Duration
	var growth []int
	for b.Loop() {
		floor = append(floor, timed(b, func() { receiveFile(b, h, file) }))
		destroyReceived(b, h)
		took, bytes := pullApart(b, h, r.url+"/web:1")
		pulled, growth = append(pulled, took), append(growth, bytes)
		img, err := h.Find(b.Context(), "web:1")
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Remove(b.Context(), img); err != nil {
			b.Fatal(err)
		}
		three = append(three, timed(b, func() { threePasses(b, h, r.url+"/web_1.zfs.zst", m.Digest, download) }))
		destroyReceived(b, h)
		if err := os.Remove(download); err != nil { // before it is written to the disk in somebody else's time
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(floor).Seconds(), "floor-s")
	b.ReportMetric(median(pulled).Seconds(), "pull-s")
	b.ReportMetric(median(three).Seconds(), "three-pass-s")
	b.ReportMetric(median(pulled).Seconds()/median(floor).Seconds(), "pull/floor")
	b.ReportMetric(median(pulled).Seconds()/median(three).Seconds(), "pull/three-pass")
	b.ReportMetric(float64(slices.Max(growth))/(1<<20), "MiB-growth")
}

// paced is a network of that many bytes a second.
func paced(rate float64) fault {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		good.ServeHTTP(&pacedWriter{ResponseWriter: w, rate: rate, began: time.Now()}, r)
	}
}

type pacedWriter struct {
	http.ResponseWriter
	rate  float64
	began time.Time
	bytes int
}

func (p *pacedWriter) Write(data []byte) (int, error) {
	n, err := p.ResponseWriter.Write(data)
	p.bytes += n
	time.Sleep(time.Until(p.began.Add(time.Duration(float64(p.bytes) / p.rate * float64(time.Second)))))
	return n, err
}

func timed(b *testing.B, f func()) time.Duration {
	b.Helper()
	began := time.Now()
	f()
	return time.Since(began)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func receiveFile(b *testing.B, h *host, file string) {
	b.Helper()
	shell(b, "zstd -dcq "+file+" | zfs receive -u "+h.dataset+"/bench")
}

func destroyReceived(b *testing.B, h *host) {
	b.Helper()
	shell(b, "zfs destroy -r "+h.dataset+"/bench")
}

func shell(b *testing.B, line string) {
	b.Helper()
	if out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v: %s", line, err, out)
	}
}

// pullApart pulls in another process, and returns how long that took and by how many bytes the process's memory grew.
func pullApart(b *testing.B, h *host, ref string) (took time.Duration, growth int) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), pullerVariable+"="+strings.Join([]string{h.kind, h.dataset, h.dir, ref, "measured"}, " "))
	out, err := cmd.CombinedOutput()
	if _, scanErr := fmt.Sscan(string(out), &growth, &took); err != nil || scanErr != nil {
		b.Fatalf("another process: %s, %v", out, err)
	}
	return took, growth
}

// threePasses is what pot import does, with other programs: fetch(1), which does not wait for the disk, skein1024 of the file, and xzcat of it
// into zfs receive.
func threePasses(b *testing.B, h *host, url, digest, file string) {
	b.Helper()
	resp, err := http.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, resp.Body); err != nil {
		b.Fatal(err)
	}
	hash := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(hash, f); err != nil {
		b.Fatal(err)
	}
	if got := digestPrefix + hex.EncodeToString(hash.Sum(nil)); got != digest {
		b.Fatal(got)
	}
	receiveFile(b, h, file)
}

// BenchmarkTwentyTasks has twenty tasks want one cold image, and then the warm one.
func BenchmarkTwentyTasks(b *testing.B) {
	dir, _ := publish(b, "zfs", "web:1", makeLargeTree(b, 50<<20), BuildOptions{})
	r := newRegistry(b, dir)
	h := newHost(b, "zfs", Options{})
	ref := r.ref(b, "web:1")
	all := func() {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := h.Ensure(context.Background(), ref, EnsureOptions{}); err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	var cold, warm []time.Duration
	n := 0
	for b.Loop() {
		cold = append(cold, timed(b, all))
		warm = append(warm, timed(b, all))
		n++
		img, err := h.Find(b.Context(), "web:1")
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Remove(b.Context(), img); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(cold).Seconds()*1000, "cold-ms")
	b.ReportMetric(float64(median(warm).Microseconds())/20, "warm-µs/task")
	b.ReportMetric(float64(r.count("/web_1.zfs.zst"))/float64(n), "downloads")
}
