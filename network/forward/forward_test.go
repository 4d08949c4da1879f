package forward

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "forward" {
		if err := Run(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func command(t testing.TB) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, "forward"}
}

// folder is short, because the path of a socket has to be.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "fwd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func put(t testing.TB, dir, task string, rules ...Rule) {
	t.Helper()
	if err := Put(dir, task, rules); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, dir, task) })
	if err := Sync(dir, task, command(t)); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, dir, task string) {
	t.Helper()
	had, err := Remove(dir, task)
	if err != nil {
		t.Fatal(err)
	}
	if had {
		if err := Sync(dir, task, command(t)); err != nil {
			t.Error(err)
		}
	}
}

// freePort is free for a moment.
func freePort(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

func echo(t testing.TB, proto string) netip.AddrPort {
	t.Helper()
	if proto == "udp" {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		return netip.MustParseAddrPort(pc.LocalAddr().String())
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return netip.MustParseAddrPort(l.Addr().String())
}

func dial(t testing.TB, proto string, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(proto, to.String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

func say(c net.Conn, what string) (string, error) {
	if _, err := fmt.Fprintln(c, what); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

func wantEcho(t testing.TB, c net.Conn) {
	t.Helper()
	if got, err := say(c, "hello"); err != nil || got != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestForward(t *testing.T) {
	dir := folder(t)
	tcp, udp := freePort(t), freePort(t)
	put(t, dir, "web", Rule{"tcp", tcp, echo(t, "tcp")}, Rule{"udp", udp, echo(t, "udp")})
	stays := dial(t, "tcp", tcp)
	wantEcho(t, stays)
	wantEcho(t, dial(t, "udp", udp))
	wantEcho(t, dial(t, "udp", udp))

	other := freePort(t)
	put(t, dir, "other", Rule{"tcp", other, echo(t, "tcp")})
	wantEcho(t, stays)
	goes := dial(t, "tcp", other)
	wantEcho(t, goes)
	remove(t, dir, "other")
	if got, err := say(goes, "hello"); err == nil {
		t.Errorf("a removed task answers %q", got)
	}
	if c, err := net.Dial("tcp", other.String()); err == nil {
		c.Close()
		t.Error("a removed task's port is open")
	}
	wantEcho(t, stays)

	remove(t, dir, "web")
	wantEnd(t, dir)
}

// wantEnd waits for the process to go.
func wantEnd(t testing.TB, dir string) {
	t.Helper()
	for range 500 {
		lock, err := os.Open(filepath.Join(dir, lockName))
		if err != nil {
			t.Fatal(err)
		}
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		lock.Close()
		if err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the process stays without a task to serve")
}

func TestHalfClose(t *testing.T) {
	dir := folder(t)
	port := freePort(t)
	put(t, dir, "web", Rule{"tcp", port, echo(t, "tcp")})
	c := dial(t, "tcp", port)
	big := strings.Repeat("x", 1<<20)
	go func() {
		io.WriteString(c, big)
		c.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || string(got) != big {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(big), err)
	}
}

func TestTaskRefuses(t *testing.T) {
	dir := folder(t)
	port := freePort(t)
	put(t, dir, "web", Rule{"tcp", port, freePort(t)})
	c, err := net.Dial("tcp", port.String())
	if err == nil {
		defer c.Close()
		_, err = io.ReadAll(c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a port that nobody listens on: %v, want a reset", err)
	}
}

func TestPortInUse(t *testing.T) {
	dir := folder(t)
	taken := echo(t, "tcp")
	if err := Put(dir, "web", []Rule{{"tcp", taken, taken}}); err != nil {
		t.Fatal(err)
	}
	err := Sync(dir, "web", command(t))
	want := fmt.Sprintf("host port %s/tcp: listen tcp4 %s: bind: address already in use", taken, taken)
	if err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	port := freePort(t)
	put(t, dir, "other", Rule{"tcp", port, taken})
	wantEcho(t, dial(t, "tcp", port))
	remove(t, dir, "web")
}

// TestKilled: the next Sync starts another process with the same rules.
func TestKilled(t *testing.T) {
	dir := folder(t)
	first, second := freePort(t), freePort(t)
	to := echo(t, "tcp")
	put(t, dir, "web", Rule{"tcp", first, to})
	kill(t, dir)
	put(t, dir, "other", Rule{"tcp", second, to})
	wantEcho(t, dial(t, "tcp", first))
	wantEcho(t, dial(t, "tcp", second))
}

// kill ends the folder's process as nothing can prevent.
func kill(t testing.TB, dir string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantEnd(t, dir)
}

// TestManyAtOnce: tasks come and go at the same time, in several processes'
// name, and end in one.
func TestManyAtOnce(t *testing.T) {
	dir := folder(t)
	to := echo(t, "tcp")
	var wg sync.WaitGroup
	for i := range 20 {
		port := freePort(t)
		wg.Go(func() {
			task := fmt.Sprint("task", i)
			for range 3 {
				if err := Put(dir, task, []Rule{{"tcp", port, to}}); err != nil {
					t.Error(err)
				}
				if err := Sync(dir, task, command(t)); err != nil {
					t.Error(err)
				}
				c, err := net.Dial("tcp", port.String())
				if err != nil {
					t.Error(err)
					return
				}
				wantEcho(t, c)
				c.Close()
				remove(t, dir, task)
			}
		})
	}
	wg.Wait()
	wantEnd(t, dir)
}

// TestFolderRemoved: nobody could ever tell the process to end.
func TestFolderRemoved(t *testing.T) {
	dir := folder(t)
	port := freePort(t)
	put(t, dir, "web", Rule{"tcp", port, echo(t, "tcp")})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 2 * int(lookAfter/(10*time.Millisecond)) {
		c, err := net.Dial("tcp", port.String())
		if err != nil {
			return
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the process serves a folder that is no more")
}

func TestNothingToDo(t *testing.T) {
	dir := folder(t)
	if err := Sync(dir, "web", []string{"/nonexistent"}); err != nil {
		t.Errorf("Sync of an empty folder: %v", err)
	}
	if err := Sync(dir+"/missing", "web", []string{"/nonexistent"}); err != nil {
		t.Errorf("Sync of no folder: %v", err)
	}
	if had, err := Remove(dir, "web"); had || err != nil {
		t.Errorf("Remove: %v, %v", had, err)
	}
}
