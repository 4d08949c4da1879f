package image

import (
	"fmt"
	"net/http"
	"os"
	"path"
	"strings"
)

// Handler serves a folder of exported images as a registry does: whole files, and parts of them, so that a pull that broke
// off goes on. Hidden files, such as those of an export under way, are not served.
func Handler(dir string) http.Handler {
	files := http.FileServer(http.Dir(dir))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clean := path.Clean("/" + r.URL.Path)
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this registry is for reading", http.StatusMethodNotAllowed)
			return
		}
		if strings.Contains(clean, "/.") {
			http.NotFound(w, r)
			return
		}
		if info, err := os.Stat(dir + clean); err == nil && info.Mode().IsRegular() {
			w.Header().Set("Etag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
		}
		files.ServeHTTP(w, r)
	})
}
