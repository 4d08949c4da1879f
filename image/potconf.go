package image

import (
	"fmt"
	"strings"

	"github.com/mattn/go-shellwords"
)

// applyPotConf takes from a pot's conf/pot.conf what a manifest says: what to run, with which environment, where it listens.
// Addresses and names in it are of the host that the pot was made on.
func (m *Manifest) applyPotConf(conf string) error {
	m.Defaults = Defaults{Env: map[string]string{}, Attributes: map[string]string{}}
	for line := range strings.Lines(conf) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		words, err := shellwords.Parse(value)
		if err != nil {
			return fmt.Errorf("its pot.conf has in %s an open quotation mark; see pot.conf where it was made", key)
		}
		m.potLine(key, words)
	}
	if m.Defaults.Command == "" && m.Defaults.Attributes["no-rc-script"] != "YES" {
		m.Defaults.Command, m.Defaults.Args = "/bin/sh", []string{"/etc/rc"} // as pot starts it
	}
	if err := m.Defaults.validate(); err != nil {
		return fmt.Errorf("its pot.conf is wrong: %w", err)
	}
	return nil
}

func (m *Manifest) potLine(key string, words []string) {
	if len(words) == 0 {
		return
	}
	d := &m.Defaults
	switch attribute, isAttribute := strings.CutPrefix(key, "pot.attr."); {
	case key == "pot.cmd":
		d.Command, d.Args = words[0], words[1:]
	case key == "pot.env":
		for _, w := range words {
			if name, value, ok := strings.Cut(w, "="); ok {
				d.Env[name] = value
			}
		}
	case key == "pot.export.ports":
		for _, w := range words {
			d.Ports = append(d.Ports, potPort(w))
		}
	case key == "osrelease":
		m.OSRelease = words[0]
	case isAttribute:
		d.Attributes[attribute] = words[0]
	}
}

// potPort turns [PROTO:]PORT[:POT_PORT] into PORT[/PROTO].
func potPort(s string) string {
	proto, rest, ok := strings.Cut(s, ":")
	if !ok || proto != "tcp" && proto != "udp" {
		proto, rest = "", s
	}
	port, _, _ := strings.Cut(rest, ":")
	if proto == "udp" {
		port += "/udp"
	}
	return port
}
