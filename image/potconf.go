package image

import (
	"cmp"
	"fmt"
	"strings"
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
		words, ok := potWords(value)
		if !ok {
			return fmt.Errorf("its pot.conf has in %s an open quotation mark; see pot.conf where it was made", key)
		}
		if key == "pot.cmd" && strings.ContainsAny(value, shellSyntax) {
			words = []string{"/bin/sh", "-c", value} // as pot runs every command; sh replaces itself by the last one
		}
		m.potLine(key, words)
	}
	if m.Defaults.Command == "" && m.Defaults.Attributes["no-rc-script"] != "YES" {
		m.Defaults.Command, m.Defaults.Args = "/bin/sh", []string{"/etc/rc"} // as pot starts it
	}
	if err := cmp.Or(checkText(m.OSRelease), m.Defaults.validate()); err != nil {
		return fmt.Errorf("its pot.conf is wrong: %w", err)
	}
	return nil
}

// shellSyntax is what makes a command more to sh(1) than words.
const shellSyntax = ";&|<>()$`*?[~#{"

// potWords splits as sh(1) splits what stands behind export, in which pot has written it, but for what sh would replace.
func potWords(s string) (words []string, ok bool) {
	var word strings.Builder
	var quote rune
	begun, escaped := false, false
	for _, c := range s {
		switch {
		case escaped:
			if quote != 0 && !strings.ContainsRune("\"\\$`", c) {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			begun, escaped = true, true
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			begun, quote = true, c
		case quote == 0 && (c == ' ' || c == '\t'):
			if begun {
				words = append(words, word.String())
			}
			begun = false
			word.Reset()
		default:
			begun = true
			word.WriteRune(c)
		}
	}
	if begun {
		words = append(words, word.String())
	}
	return words, quote == 0 && !escaped
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
