package image

import (
	"strings"
	"testing"
)

var someDigest = "sha256:" + strings.Repeat("0f", 32)

func TestParseReference(t *testing.T) {
	for _, c := range []struct {
		text string
		want Reference
	}{
		{"https://registry.example.org/web:1.4", Reference{Base: "https://registry.example.org", Name: "web", Tag: "1.4"}},
		{"http://[::1]:8080/a/b/web:1.4", Reference{Base: "http://[::1]:8080/a/b", Name: "web", Tag: "1.4"}},
		{"https://h/web:1.4@" + someDigest, Reference{Base: "https://h", Name: "web", Tag: "1.4", Digest: someDigest}},
		{"file:///srv/images/web:1.4", Reference{Base: "file:///srv/images", Name: "web", Tag: "1.4"}},
		{"web:1.4", Reference{Name: "web", Tag: "1.4"}},
		{"FBSD120-nginx:1.0_2", Reference{Name: "FBSD120-nginx", Tag: "1.0_2"}},
	} {
		got, err := ParseReference(c.text)
		if err != nil || got.String() != c.want.String() || got.Base != c.want.Base {
			t.Errorf("%s: %+v, %v", c.text, got, err)
		}
		if got.String() != c.text {
			t.Errorf("%s comes back as %s", c.text, got)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, c := range []struct{ text, sentence string }{
		{"", `no image is named`},
		{"https://h/web", `image "https://h/web": it has no tag; write NAME:TAG behind the registry's URL`},
		{"https://web:1.4", `it has no tag`},
		{"https://h/web:", `"" is no tag of an image`},
		{"https://h/:1", `"" is no name of an image`},
		{"https://h/../x:1", `".." in its path`},
		{"https://h/..:1", `".." is no name`},
		{"../x:1", `has no scheme`},
		{"https://h/x:../../etc", `has no tag`},
		{"https://h/web:1@2", `"2" is no digest; write sha256:`},
		{"https://h/a/b@c:1", `"c:1" is no digest`},
		{"https://h/web:1@" + strings.ToUpper(someDigest), `is no digest`},
		{"https://h/" + strings.Repeat("x", 300) + ":1", `the name has 300 bytes; at most 100 are possible`},
		{"https://h/" + strings.Repeat("x/", 400) + "web:1", `the registry's URL has 809 bytes`},
		{"registry.example.org/web:1.4", `has no scheme; write https://registry.example.org/NAME:TAG`},
		{"ftp://h/web:1", `of scheme "ftp"; http, https and file are possible`},
		{"https://user:secret@h/web:1", `credentials`},
		{"https://h/?x=/web:1", `query`},
		{"https://h/a b/web:1", `cannot be parsed`},
		{"https:///web:1", `has no host`},
		{"file://host/web:1", `file:///path`},
		{"https://h/we b:1", `"we b" is no name`},
		{"https://h/web:1\n", `is no tag`},
		{"https://h/-rf:1", `"-rf" is no name`},
	} {
		_, err := ParseReference(c.text)
		switch {
		case err == nil:
			t.Errorf("%q is accepted", c.text)
		case !strings.Contains(err.Error(), c.sentence):
			t.Errorf("%q: %v, want %q", c.text, err, c.sentence)
		case strings.Contains(err.Error(), "secret"):
			t.Errorf("%q: its password is in the message: %v", c.text, err)
		}
	}
	if _, err := NewReference("https://u:secret@h", "web", "1"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("credentials in a base URL: %v", err)
	}
}

func TestNewReference(t *testing.T) {
	r, err := NewReference("http://h/images/", "nginx", "1.0")
	if err != nil || r.String() != "http://h/images/nginx:1.0" {
		t.Error(r, err)
	}
	if _, err := NewReference("http://h", "../x", "1"); err == nil {
		t.Error("../x is accepted as a name")
	}
}
