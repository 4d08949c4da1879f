package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

var zfsCommands map[string]func([]string) error

func init() {
	zfsCommands = map[string]func([]string) error{
		"clone":    clone,
		"create":   create,
		"destroy":  destroy,
		"get":      get,
		"list":     list,
		"receive":  receive,
		"recv":     receive,
		"rename":   rename,
		"send":     send,
		"set":      set,
		"snap":     snapshot,
		"snapshot": snapshot,
		"version":  func([]string) error { fmt.Println("zfs-fuse-0.7.0"); return nil },
	}
}

func clone(args []string) error {
	o := parse(args, "o")
	o.values['o'] = settable(o.values['o'])
	return change(append([]string{"clone"}, o.args("p")...)...)
}

func create(args []string) error {
	o := parse(args, "oVb")
	o.values['o'] = settable(o.values['o'])
	command := append([]string{"create"}, o.args("ps")...)
	if !o.has('u') {
		return change(command...)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := locked(command...); err != nil {
		return err
	}
	return restoreMount(o.rest[len(o.rest)-1], false)
}

func destroy(args []string) error {
	o := parse(args, "")
	if len(o.rest) != 1 {
		return become(append([]string{"destroy"}, args...)...)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	dataset, snapshots, _ := strings.Cut(o.rest[0], "@")
	for i, s := range strings.Split(snapshots, ",") {
		o.rest[0] = dataset
		if s != "" || i > 0 {
			o.rest[0] += "@" + s
		}
		if err := patient(append([]string{"destroy"}, o.args("rRfd")...)...); err != nil {
			return err
		}
	}
	return nil
}

func set(args []string) error {
	targets := slices.IndexFunc(args, func(a string) bool { return !strings.Contains(a, "=") })
	if targets < 1 {
		return become(append([]string{"set"}, args...)...)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	for _, p := range settable(args[:targets]) {
		command := []string{"set", p}
		if name, empty := strings.CutSuffix(p, "="); empty {
			command = []string{"inherit", name}
		}
		if err := locked(append(command, args[targets:]...)...); err != nil {
			return err
		}
	}
	return nil
}

// snapshot makes all or none.
func snapshot(args []string) error {
	o := parse(args, "o")
	names := o.rest
	if len(names) == 0 {
		return become("snapshot")
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	for i, name := range names {
		o.rest = []string{name}
		if err := locked(append([]string{"snapshot"}, o.args("r")...)...); err != nil {
			for _, made := range names[:i] {
				locked("destroy", made)
			}
			return err
		}
	}
	return nil
}

// rename leaves mounted what was mounted and nothing else. zfs-fuse itself refuses what it has just unmounted, and mounts what it renames
// out of a folder without a mount point.
func rename(args []string) error {
	o := parse(args, "")
	if len(o.rest) != 2 {
		return become(append([]string{"rename"}, args...)...)
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	command := append([]string{"rename"}, o.args("pr")...)
	from, to := o.rest[0], o.rest[1]
	if strings.Contains(from, "@") {
		return patient(command...)
	}
	was, err := mounted(from)
	if err != nil {
		return err
	}
	if was {
		if err := locked("unmount", from); err != nil {
			return err
		}
	}
	if err := patient(command...); err != nil {
		restoreMount(from, was)
		return err
	}
	return restoreMount(to, was)
}

// mounted asks the kernel, as zfs-fuse does too.
func mounted(dataset string) (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	return bytes.HasPrefix(mounts, []byte(dataset+" ")) || bytes.Contains(mounts, []byte("\n"+dataset+" ")), err
}

// restoreMount mounts or unmounts a dataset that may be so already.
func restoreMount(dataset string, should bool) error {
	is, err := mounted(dataset)
	switch {
	case err != nil || is == should:
		return err
	case should:
		return locked("mount", dataset)
	}
	return locked("unmount", dataset)
}

// receive runs without the lock: a stream takes as long as its sender likes.
func receive(args []string) error {
	o := parse(args, "ox")
	if len(o.rest) != 1 {
		return become(append([]string{"receive"}, args...)...)
	}
	target := o.rest[0]
	put, except := settable(o.values['o']), o.values['x']
	o.values = nil
	if err := stream(append([]string{"receive"}, o.args("dvnF")...)...); err != nil {
		return err
	}
	if o.has('d') || o.has('n') {
		return nil
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	dataset, _, _ := strings.Cut(target, "@")
	for _, p := range except {
		if err := locked("inherit", p, dataset); err != nil {
			return err
		}
	}
	for _, p := range put {
		if origin, ok := strings.CutPrefix(p, "origin="); ok {
			if err := checkOrigin(dataset, origin); err != nil {
				return err
			}
			continue
		}
		if err := locked("set", p, dataset); err != nil {
			return err
		}
	}
	if o.has('u') {
		return restoreMount(dataset, false)
	}
	return nil
}

// checkOrigin undoes a receive of what is a clone of another snapshot than the one asked for: zfs-fuse looks for the origin by itself.
func checkOrigin(dataset, origin string) error {
	lines, err := output("get", "-H", "-o", "value", "origin", dataset)
	if err != nil || lines[0] == origin {
		return err
	}
	if err := patient("destroy", "-r", dataset); err != nil {
		return err
	}
	return fmt.Errorf("cannot receive new filesystem stream: local origin for clone %s does not exist", dataset)
}

// stream runs a real command on this one's standard input. The daemon reads the pipe itself and keeps it open until the sender closes it, so
// a signal to stop goes no further than the command.
func stream(args ...string) error {
	var stderr bytes.Buffer
	cmd := exec.Command(real, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, &stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cmd.Process.Kill()
	}()
	if err := run(cmd, 0); err != nil {
		// An incomplete dataset goes away when the daemon meets the end of the stream.
		time.Sleep(pause)
		return failed(cmd, err, stderr.String())
	}
	return nil
}

func send(args []string) error {
	o := parse(args, "iI")
	return become(append([]string{"send"}, o.args("RDpv")...)...)
}

func list(args []string) error {
	o := parse(args, "dotsS")
	columns := []string{"name", "used", "available", "referenced", "mountpoint"}
	if asked := o.values['o']; asked != nil {
		columns = strings.Split(strings.Join(asked, ","), ",")
	}
	for i, c := range columns {
		columns[i] = long(c)
	}
	names, err := datasets(o)
	if err != nil {
		return err
	}
	found, err := properties(names, columns)
	if err != nil {
		return err
	}
	table, done := printer(o, columns)
	for _, name := range names {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = human(o, found[name][c].value)
		}
		table(row)
	}
	return done()
}

// long is a property's full name.
func long(p string) string {
	if l, ok := map[string]string{"avail": "available", "refer": "referenced", "rdonly": "readonly", "lused": "logicalused"}[p]; ok {
		return l
	}
	return p
}

// datasets lists the names that a list or get is about.
func datasets(o options) ([]string, error) {
	names := options{flags: o.flags, values: map[byte][]string{'o': {"name"}}, rest: o.rest}
	for _, f := range []byte("dsS") {
		names.values[f] = o.values[f]
	}
	if t := o.values['t']; t != nil {
		names.values['t'] = []string{types(t[0])}
	} else if slices.ContainsFunc(o.rest, func(name string) bool { return strings.Contains(name, "@") }) {
		names.values['t'] = []string{"all"}
	}
	return output(append([]string{"list", "-H"}, names.args("r")...)...)
}

func get(args []string) error {
	o := parse(args, "dots")
	if len(o.rest) == 0 {
		return become(append([]string{"get"}, args...)...)
	}
	asked := strings.Split(o.rest[0], ",")
	lacks := slices.ContainsFunc(asked, func(p string) bool { _, lacks := lacking[p]; return lacks })
	if !lacks && o.values['t'] == nil {
		return become(append([]string{"get"}, args...)...)
	}
	o.rest = o.rest[1:]
	names, err := datasets(o)
	if err != nil || len(names) == 0 {
		return err
	}
	if !lacks {
		real := options{flags: o.flags, values: map[byte][]string{'o': o.values['o'], 's': o.values['s']}, rest: append([]string{strings.Join(asked, ",")}, names...)}
		return become(append([]string{"get"}, real.args("Hp")...)...)
	}
	found, err := properties(names, asked)
	if err != nil {
		return err
	}
	columns := []string{"name", "property", "value", "source"}
	if c := o.values['o']; c != nil {
		columns = strings.Split(c[0], ",")
	}
	table, done := printer(o, columns)
	for _, name := range names {
		for _, p := range asked {
			cells := map[string]string{"name": name, "property": p, "value": human(o, found[name][p].value), "source": found[name][p].source}
			row := make([]string, len(columns))
			for i, c := range columns {
				row[i] = cells[c]
			}
			table(row)
		}
	}
	return done()
}

// human shortens a size, unless the command was told to print it whole.
func human(o options, value string) string {
	if o.has('p') {
		return value
	}
	var size float64
	if n, err := fmt.Sscanf(value, "%g", &size); n != 1 || err != nil || strings.Trim(value, "0123456789") != "" {
		return value
	}
	unit := 0
	for ; size >= 1024; size /= 1024 {
		unit++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.3g%c", size, "BKMGTPE"[unit]), "B")
}

// printer prints rows as zfs does: with tabs for a program, aligned under a heading for a person.
func printer(o options, columns []string) (row func([]string), done func() error) {
	if o.has('H') {
		var out bytes.Buffer
		return func(cells []string) { out.WriteString(strings.Join(cells, "\t") + "\n") },
			func() error { _, err := os.Stdout.Write(out.Bytes()); return err }
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(columns, "\t")))
	return func(cells []string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }, w.Flush
}
