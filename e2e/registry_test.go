package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
)

// registry is a static server with faults: BASE/FAULT/FILE answers as BASE/FILE does, but for the fault.
var registry faultyRegistry

type faultyRegistry struct {
	mu   sync.Mutex
	gets map[string]int
}

// faults take the good answer to a request and give the bad one.
var faults = map[string]func(file string, good []byte, w http.ResponseWriter){
	"not-json":     manifest(func([]byte) []byte { return []byte("<html>Welcome to our proxy</html>") }),
	"other-name":   manifest(field("name", "other")),
	"other-os":     manifest(field("os", "plan9")),
	"other-arch":   manifest(field("arch", "vax")),
	"other-digest": manifest(field("digest", "sha256:"+strings.Repeat("ab", 32))),
	// Of another digest, or the image that is here already would do.
	"cut-short": func(file string, good []byte, w http.ResponseWriter) {
		if strings.HasSuffix(file, ".json") {
			w.Write(field("digest", "sha256:"+strings.Repeat("cd", 32))(good))
			return
		}
		w.Write(good[:len(good)/2])
	},
	"not-found": func(_ string, _ []byte, w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
	"broken":    func(_ string, _ []byte, w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
	"silent":    func(_ string, _ []byte, w http.ResponseWriter) { panic(http.ErrAbortHandler) },
}

// manifest changes the manifest and leaves the stream alone.
func manifest(change func([]byte) []byte) func(string, []byte, http.ResponseWriter) {
	return func(file string, good []byte, w http.ResponseWriter) {
		if strings.HasSuffix(file, ".json") {
			good = change(good)
		}
		w.Write(good)
	}
}

func field(name, value string) func([]byte) []byte {
	return func(good []byte) []byte {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			panic(err)
		}
		m[name] = value
		bad, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		return bad
	}
}

func (r *faultyRegistry) wrap(good http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.count(req.URL.Path)
		fault, ok := faults[path.Base(path.Dir(req.URL.Path))]
		if !ok {
			good.ServeHTTP(w, req)
			return
		}
		file := path.Base(req.URL.Path)
		plain := httptest.NewRecorder()
		good.ServeHTTP(plain, httptest.NewRequest(http.MethodGet, "/"+file, nil))
		if plain.Code != http.StatusOK {
			w.WriteHeader(plain.Code)
			return
		}
		fault(file, plain.Body.Bytes(), w)
	})
}

func (r *faultyRegistry) count(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gets == nil {
		r.gets = map[string]int{}
	}
	r.gets[path]++
}

// downloads is how often a file was asked for.
func (r *faultyRegistry) downloads(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gets[path]
}
