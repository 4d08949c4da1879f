package image

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"
)

func TestPotConf(t *testing.T) {
	for _, c := range []struct {
		conf    string
		command []string
		env     map[string]string
	}{
		{"pot.cmd=/bin/httpd -f -h \"/usr/local/my www\"", []string{"/bin/httpd", "-f", "-h", "/usr/local/my www"}, nil},
		{"pot.cmd=/bin/httpd -f > /var/log/x", []string{"/bin/sh", "-c", "/bin/httpd -f > /var/log/x"}, nil},
		{"pot.cmd=cd /srv && exec ./run 'a b'", []string{"/bin/sh", "-c", "cd /srv && exec ./run 'a b'"}, nil},
		{"pot.cmd=echo $HOME; sleep 1", []string{"/bin/sh", "-c", "echo $HOME; sleep 1"}, nil},
		{"pot.cmd=printf a\\ b", []string{"printf", "a b"}, nil},
		{"pot.cmd=", []string{"/bin/sh", "/etc/rc"}, nil},
		{"pot.env=URL=http://h/?a=1&b=2", nil, map[string]string{"URL": "http://h/?a=1&b=2"}},
		{`pot.env="A=one;two <three> | (four) ` + "`five`" + `"`, nil, map[string]string{"A": "one;two <three> | (four) `five`"}},
		{`pot.env="SAID=she said \"yes\""`, nil, map[string]string{"SAID": `she said "yes"`}},
		{`pot.env="RE=a\.b\n"`, nil, map[string]string{"RE": `a\.b\n`}},
		{"pot.env=A='it''s' B=\"\" C=d\tE=\\;", nil, map[string]string{"A": "its", "B": "", "C": "d", "E": ";"}},
		{"pot.env=\"A=1\"\npot.env=\"B=2\"", nil, map[string]string{"A": "1", "B": "2"}},
	} {
		var m Manifest
		if err := m.applyPotConf(c.conf + "\n"); err != nil {
			t.Errorf("%s: %v", c.conf, err)
			continue
		}
		if command := append([]string{m.Defaults.Command}, m.Defaults.Args...); c.command != nil && !slices.Equal(command, c.command) {
			t.Errorf("%s: runs %q, want %q", c.conf, command, c.command)
		}
		if !maps.Equal(m.Defaults.Env, c.env) && c.env != nil {
			got, _ := json.Marshal(m.Defaults.Env)
			t.Errorf("%s: the environment is %s", c.conf, got)
		}
	}
	for _, bad := range []string{"osrelease=12.2\x7f", "pot.cmd=/bin/web\x1b", "pot.cmd=/bin/true > \"x", "pot.env=A='b", "pot.env=A=b\\"} {
		var m Manifest
		if err := m.applyPotConf(bad); err == nil {
			t.Errorf("%s: accepted as %+v", bad, m.Defaults)
		}
	}
}
