// Command httpd is a small static web server for example images: it serves a folder, and tells at a few paths what a program in a jail
// sees of its world.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	listen := flag.String("listen", ":8080", "address to serve HTTP on")
	root := flag.String("root", "/usr/local/www", "folder to serve")
	udp := flag.String("udp", "", "address to answer UDP packets on, each with itself")
	flag.String("g", "", "ignored; nginx has it")
	if filepath.Base(os.Args[0]) == "nginx" {
		*listen, *root = nginx("/usr/local/etc/nginx/nginx.conf")
	}
	flag.Parse()
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer stop()
	if err := run(ctx, *listen, *root, *udp); err != nil {
		log.Fatal("httpd: ", err)
	}
}

// nginx reads of an nginx.conf what this server can do: in example jobs it stands in for nginx.
func nginx(path string) (listen, root string) {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal("httpd: ", err)
	}
	directive := func(name, otherwise string) string {
		if m := regexp.MustCompile(`\b` + name + `\s+([^;\s]+)\s*;`).FindSubmatch(text); m != nil {
			return string(m[1])
		}
		return otherwise
	}
	return ":" + directive("listen", "80"), directive("root", "/usr/local/www")
}

func run(ctx context.Context, listen, root, udp string) error {
	if udp != "" {
		conn, err := net.ListenPacket("udp", udp)
		if err != nil {
			return err
		}
		go echo(conn)
	}
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP, syscall.SIGUSR1)
	go func() {
		for s := range reloads {
			fmt.Println("got", s)
		}
	}()
	server := &http.Server{Addr: listen, Handler: handler(root), ReadHeaderTimeout: 10 * time.Second}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("serving %s on %s\n", root, listener.Addr())
	go func() {
		<-ctx.Done()
		fmt.Println("stopping")
		late, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		server.Shutdown(late)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func handler(root string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", logged(http.FileServer(http.Dir(root))))
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
		env := os.Environ()
		slices.Sort(env)
		fmt.Fprintln(w, strings.Join(env, "\n"))
	})
	mux.HandleFunc("/hostname", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintln(w, name)
	})
	mux.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	// /get?url=… fetches from inside the jail.
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		client := http.Client{Timeout: 5 * time.Second}
		answer, err := client.Get(r.URL.Query().Get("url"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body)
	})
	return mux
}

func logged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		fmt.Println(r.Method, r.URL.Path)
	})
}

func echo(conn net.PacketConn) {
	packet := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return
		}
		conn.WriteTo(packet[:n], from)
	}
}
