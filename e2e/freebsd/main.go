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
	"strings"
	"syscall"
	"time"
)

type guest struct {
	image, payload, results string
	accel                   string
	memory                  int
	limit                   time.Duration
}

func main() {
	var g guest
	flag.StringVar(&g.image, "image", "", "disk image of FreeBSD for amd64, raw or qcow2")
	flag.StringVar(&g.payload, "payload", "", "folder to bring in")
	flag.StringVar(&g.results, "results", "", "folder to bring results out to")
	flag.StringVar(&g.accel, "accel", "kvm,tcg", "QEMU's accelerators to try, in order; tcg alone where there is a /dev/kvm that does not work")
	flag.IntVar(&g.memory, "memory", 4096, "of the guest, in MiB")
	flag.DurationVar(&g.limit, "limit", 3*time.Hour, "how long all of it may take")
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
		return errors.New("which image? make e2e-freebsd IMAGE=path of FreeBSD-…-amd64-BASIC-CI.raw or .qcow2")
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
		return fmt.Errorf("the run in the guest ended with status %s; what it left is in %s", status, g.results)
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

// talk is what the console says and what is typed then. The first reboot is for the tunable that only the loader can set.
var talk = []struct{ wait, answer string }{
	{"login: ", "root\n"},
	{"# ", "exec /bin/sh\n"},
	{"# ", "grep -q kern.racct.enable /boot/loader.conf || echo kern.racct.enable=1 >> /boot/loader.conf; reboot\n"},
	{"login: ", "root\n"},
	{"# ", "exec /bin/sh\n"},
	{"# ", "stty -echo; mkdir /tests; tar -xf /dev/vtbd1 -C /tests; cd /tests; mkdir results; sh ./run; echo $? > results/status; " +
		"tar -cf /dev/vtbd2 -C results .; echo 'status''='$(cat results/status); sync; poweroff\n"},
}

// boot runs the guest until it powers off, and returns the status that the run ended with. What the console says is shown.
func (g *guest) boot(ctx context.Context, disks []disk) (status string, err error) {
	args := []string{"-machine", "q35", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(g.memory),
		"-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "user,restrict=on,model=virtio-net-pci"}
	for accel := range strings.SplitSeq(g.accel, ",") {
		args = append(args, "-accel", accel)
	}
	for _, d := range disks {
		args = append(args, "-drive", "if=virtio,file="+d.file+",format="+d.format)
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
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
		return "", fmt.Errorf("%w; install qemu-system-x86", err)
	}
	status = converse(bufio.NewReader(console), keyboard)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return "", fmt.Errorf("the guest took too long or was interrupted: %w", ctx.Err())
	}
	return status, err
}

// converse types at the console what talk says, and reads on to the end.
func converse(console *bufio.Reader, keyboard io.Writer) (status string) {
	var line []byte
	next := 0
	for {
		c, err := console.ReadByte()
		if err != nil {
			return status
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
		if next < len(talk) && bytes.HasSuffix(line, []byte(talk[next].wait)) {
			io.WriteString(keyboard, talk[next].answer)
			next++
			line = line[:0]
		}
	}
}
