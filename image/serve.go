package image

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
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

// published are the names that a registry stores: of manifests, signatures, streams, and pot's files.
var published = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*_[A-Za-z0-9._-]*\.(json|json\.sig|(zfs|tar)(\.(zst|xz|gz))?|xz|xz\.meta|xz\.skein|xz\.skein\.sig)$`)

// WritableHandler is Handler that also stores what is PUT with the bearer token, and removes what is to be DELETEd, as a WebDAV
// server without collections would. A file appears when it is whole.
func WritableHandler(dir, token string) http.Handler {
	reading := Handler(dir)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		switch {
		case r.Method != http.MethodPut && r.Method != http.MethodDelete:
			reading.ServeHTTP(w, r)
		case subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1:
			http.Error(w, "the token is not this registry's", http.StatusUnauthorized)
		case strings.Contains(name, "/"):
			http.Error(w, "this registry has no folders; push to its root", http.StatusConflict)
		case !published.MatchString(name) || len(name) > 255:
			http.Error(w, "that is no name of an image's file", http.StatusForbidden)
		case r.Method == http.MethodDelete:
			unstore(w, filepath.Join(dir, name))
		default:
			store(w, r, filepath.Join(dir, name))
		}
	})
}

func store(w http.ResponseWriter, r *http.Request, path string) {
	err := create(path, func(f io.Writer) error {
		_, err := io.Copy(f, r.Body)
		return err
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func unstore(w http.ResponseWriter, path string) {
	switch err := os.Remove(path); {
	case errors.Is(err, os.ErrNotExist):
		http.Error(w, "there is no such file", http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
