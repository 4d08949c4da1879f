package skein

import (
	"encoding/hex"
	"testing"
)

// TestPaper has the vectors of the paper's appendix C, for Skein-1024-1024: the messages are FF FE FD and so on.
func TestPaper(t *testing.T) {
	for length, want := range map[int]string{
		1: "e62c05802ea0152407cdd8787fda9e35703de862a4fbc119cff8590afe79250bccc8b3faf1bd2422ab5c0d263fb2f8afb3f796f048000381531b6f00d85161bc" +
			"0fff4bef2486b1ebcd3773fabf50ad4ad5639af9040e3f29c6c931301bf79832e9da09857e831e82ef8b4691c235656515d437d2bda33bcec001c67ffde15ba8",
		128: "1f3e02c46fb80a3fcd2dfbbc7c173800b40c60c2354af551189ebf433c3d85f9ff1803e6d920493179ed7ae7fce69c3581a5a2f82d3e0c7a295574d0cd7d217c" +
			"484d2f6313d59a7718ead07d0729c24851d7e7d2491b902d489194e6b7d369db0ab7aa106f0ee0a39a42efc54f18d93776080985f907574f995ec6a37153a578",
		256: "842a53c99c12b0cf80cf69491be5e2f7515de8733b6ea9422dfd676665b5fa42ffb3a9c48c217777950848cecdb48f640f81fb92bef6f88f7a85c1f7cd1446c9" +
			"161c0afe8f25ae444f40d3680081c35aa43f640fd5fa3c3c030bcc06abac01d098bcc984ebd8322712921e00b1ba07d6d01f26907050255ef2c8e24f716c52a5",
	} {
		message := make([]byte, length)
		for i := range message {
			message[i] = byte(255 - i)
		}
		for step := 1; step <= length; step *= 3 {
			h := New()
			for i := 0; i < length; i += step {
				h.Write(message[i:min(i+step, length)])
				h.Sum(nil) // changes nothing
			}
			if got := hex.EncodeToString(h.Sum(nil)); got != want {
				t.Errorf("%d bytes, %d at a time:\n%s, want\n%s", length, step, got, want)
			}
		}
	}
}

func BenchmarkSkein(b *testing.B) {
	data := make([]byte, 1<<20)
	b.SetBytes(int64(len(data)))
	h := New()
	for b.Loop() {
		h.Write(data)
	}
}
