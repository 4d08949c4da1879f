// Command freebsd runs tests on FreeBSD without a FreeBSD machine: it boots a cloud image under QEMU, brings programs in, runs them, and brings
// the results out. The image has to have a console on its serial port and a root without a password, as FreeBSD's BASIC-CI images have.
//
//	freebsd -image FreeBSD-14.3-RELEASE-amd64-BASIC-CI.raw -payload FOLDER -results FOLDER
//
// The payload's file "run" is started as root in the guest. The image itself is not changed.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

type guest struct {
	image, payload, results string
	arch, accel             string
	memory                  int
	limit, silence          time.Duration
}

func main() {
	var g guest
	flag.StringVar(&g.image, "image", "", "disk image of FreeBSD, raw or qcow2")
	flag.StringVar(&g.payload, "payload", "", "folder to bring in")
	flag.StringVar(&g.results, "results", "", "folder to bring results out to")
	flag.StringVar(&g.arch, "arch", runtime.GOARCH, "of the image and the payload: amd64 or arm64")
	flag.StringVar(&g.accel, "accel", "kvm,tcg", "QEMU's accelerators to try, in order; tcg alone where there is a /dev/kvm that does not work")
	flag.IntVar(&g.memory, "memory", 4096, "of the guest, in MiB")
	flag.DurationVar(&g.limit, "limit", 3*time.Hour, "how long all of it may take")
	flag.DurationVar(&g.silence, "silence", 10*time.Minute, "how long the console may say nothing before the login")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := g.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "freebsd:", err)
		os.Exit(1)
	}
}

// diskSize is that of the guest's own disk, which FreeBSD grows into, and of the disk for results.
const (
	diskSize    = "20G"
	resultsSize = 256 << 20
)

func (g *guest) run(ctx context.Context) error {
	if g.image == "" {
		return errors.New("which image? make e2e-freebsd IMAGE=path of FreeBSD-…-BASIC-CI.raw or .qcow2")
	}
	if _, ok := machines[g.arch]; !ok {
		return fmt.Errorf("-arch %s: amd64 and arm64 are known", g.arch)
	}
	dir, err := os.MkdirTemp("", "e2e-freebsd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	disks, err := g.disks(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, g.limit)
	defer cancel()
	status, err := g.boot(ctx, disks)
	if err != nil {
		return err
	}
	if err := unpack(disks[2].file, g.results); err != nil {
		return fmt.Errorf("results: %w", err)
	}
	if status != "0" {
		return fmt.Errorf("the run in the guest ended with status %s (124: it took too long); what it left is in %s", status, g.results)
	}
	return nil
}

type disk struct{ file, format string }

// disks are the guest's own (a copy on write), the payload and the room for results, both as plain tar archives.
func (g *guest) disks(dir string) ([]disk, error) {
	image, err := filepath.Abs(g.image)
	if err != nil {
		return nil, err
	}
	own := filepath.Join(dir, "own.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", format(image), "-b", image, own, diskSize).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	payload := filepath.Join(dir, "payload.tar")
	if err := pack(g.payload, payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	results := filepath.Join(dir, "results.tar")
	if err := os.WriteFile(results, nil, 0o600); err != nil {
		return nil, err
	}
	return []disk{{own, "qcow2"}, {payload, "raw"}, {results, "raw"}}, os.Truncate(results, resultsSize)
}

func format(image string) string {
	magic := make([]byte, 4)
	if f, err := os.Open(image); err == nil {
		io.ReadFull(f, magic)
		f.Close()
	}
	if bytes.Equal(magic, []byte("QFI\xfb")) {
		return "qcow2"
	}
	return "raw"
}

func pack(folder, archive string) error {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	err = errors.Join(w.AddFS(os.DirFS(folder)), w.Close())
	return errors.Join(err, out.Close())
}

func unpack(archive, folder string) error {
	in, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer in.Close()
	for r := tar.NewReader(in); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg || !filepath.IsLocal(header.Name) {
			continue
		}
		path := filepath.Join(folder, header.Name)
		text, err := io.ReadAll(r)
		if err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755)); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
}

// turn is what the console says, and what is typed then.
type turn struct{ wait, answer string }

// talk ends the run in time to bring out what it left, in the foreground, since timeout(1) else waits for what a test left running. The first
// reboot is for the tunable that only the loader can set.
func talk(limit time.Duration) []turn {
	run := fmt.Sprintf("timeout --foreground %.0f sh ./run", 0.9*limit.Seconds())
	return []turn{
		{"login: ", "root\n"},
		{"# ", "exec /bin/sh\n"},
		{"# ", "grep -q kern.racct.enable /boot/loader.conf || echo kern.racct.enable=1 >> /boot/loader.conf; reboot\n"},
		{"login: ", "root\n"},
		{"# ", "exec /bin/sh\n"},
		{"# ", "stty -echo; mkdir /tests; tar -xf /dev/vtbd1 -C /tests; cd /tests; mkdir results; " + run + "; echo $? > results/status; " +
			"tar -cf /dev/vtbd2 -C results .; echo 'status''='$(cat results/status); sync; poweroff\n"},
	}
}

// machine is what QEMU needs to be a computer of one architecture. Debian's names.
type machine struct {
	program, packages string
	args              []string
}

var machines = map[string]machine{
	"amd64": {"qemu-system-x86_64", "qemu-system-x86", []string{"-machine", "q35"}},
	"arm64": {"qemu-system-aarch64", "qemu-system-arm and qemu-efi-aarch64",
		[]string{"-machine", "virt,gic-version=max", "-bios", "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"}},
}

// command is the whole command line of QEMU.
func (g *guest) command(disks []disk) []string {
	args := append([]string{machines[g.arch].program}, machines[g.arch].args...)
	args = append(args, "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(g.memory),
		"-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "user,restrict=on,model=virtio-net-pci")
	for accel := range strings.SplitSeq(g.accel, ",") {
		args = append(args, "-accel", accel)
	}
	for _, d := range disks {
		args = append(args, "-drive", "if=virtio,file="+d.file+",format="+d.format)
	}
	return args
}

// boot runs the guest until it powers off, and returns the status that the run ended with. What the console says is shown.
func (g *guest) boot(ctx context.Context, disks []disk) (status string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := g.command(disks)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stderr = os.Stderr
	keyboard, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("%w; install %s", err, machines[g.arch].packages)
	}
	status, refused := converse(console, keyboard, talk(g.limit), g.silence)
	if refused != nil {
		cancel()
		cmd.Wait()
		return "", refused
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		return "", fmt.Errorf("the guest took too long or was interrupted: %w", ctx.Err())
	}
	return status, err
}

// way out of an image that cannot be talked to.
const way = "take a BASIC-CI image, or one with console=\"comconsole\" in its /boot/loader.conf and no password for root"

// converse types at the console what talk says, and reads on to the end. An image that cannot be talked to is given up.
func converse(console io.Reader, keyboard io.Writer, talk []turn, silence time.Duration) (status string, err error) {
	said := listen(console)
	patience := time.NewTimer(silence)
	defer patience.Stop()
	var line []byte
	next := 0
	for {
		var c byte
		var more bool
		select {
		case c, more = <-said:
			if !more {
				return status, nil
			}
		case <-patience.C:
			return "", fmt.Errorf("the guest said nothing for %v before its login: the image has no console on its serial port; %s", silence, way)
		}
		if next == 0 {
			patience.Reset(silence)
		} else {
			patience.Stop() // tests may be quiet
		}
		os.Stdout.Write([]byte{c})
		if c == '\n' {
			if s, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "status="); ok {
				status = s
			}
			line = line[:0]
			continue
		}
		line = append(line, c)
		if next == 1 && bytes.HasSuffix(line, []byte("Password:")) {
			return "", fmt.Errorf("the image's root has a password; %s", way)
		}
		if next < len(talk) && bytes.HasSuffix(line, []byte(talk[next].wait)) {
			io.WriteString(keyboard, talk[next].answer)
			next++
			line = line[:0]
		}
	}
}

// listen ends with what it reads from.
func listen(console io.Reader) <-chan byte {
	said := make(chan byte)
	go func() {
		defer close(said)
		for r := bufio.NewReader(console); ; {
			c, err := r.ReadByte()
			if err != nil {
				return
			}
			said <- c
		}
	}()
	return said
}
