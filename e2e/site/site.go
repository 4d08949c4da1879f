// Package site puts together what a job needs around it: a pool, an image at a registry, Consul, Nomad and the plugin. The demo, the tests
// and the benchmarks run on one.
package site

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/audit"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/cluster"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/rootfs"
)

// Binaries are paths of programs that were built elsewhere.
type Binaries struct{ Nomad, Consul, Plugin, Httpd, CSI string }

// Flags declares the flags that say where the binaries are. What is not said is in the environment (NOMAD, CONSUL, PLUGIN, HTTPD, CSI), beside
// this program, or in bin here or above.
func (b *Binaries) Flags(set *flag.FlagSet) {
	set.StringVar(&b.Nomad, "nomad", find("NOMAD", "nomad"), "path of the nomad agent")
	set.StringVar(&b.Consul, "consul", find("CONSUL", "consul"), "path of the consul agent")
	set.StringVar(&b.Plugin, "plugin", find("PLUGIN", "nomad-driver-jail"), "path of the plugin")
	set.StringVar(&b.Httpd, "httpd", find("HTTPD", "httpd"), "path of the example image's web server")
	set.StringVar(&b.CSI, "csi", find("CSI", "csi-folders"), "path of the example CSI plugin")
}

func find(variable, name string) string {
	if path := os.Getenv(variable); path != "" {
		return path
	}
	beside := filepath.Dir(os.Args[0])
	for _, dir := range []string{beside, "bin", "../bin", "../../bin"} {
		path, err := filepath.Abs(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return name
}

// Options say how the site should be.
type Options struct {
	Bin      Binaries
	Pool     string                          // pool or dataset to work below, "" for a throw-away pool
	Split    bool                            // Nomad's server and client apart
	More     string                          // more of the plugin's configuration
	LogLevel string                          // Nomad's
	Bind     string                          // address of the agents beside 127.0.0.1
	Say      func(what, how string)          // called as things come to be; nil for silence
	Serve    func(http.Handler) http.Handler // what the registry does differently
}

// Site is a running one.
type Site struct {
	Options
	*cluster.Cluster
	Dir      string // all of the site's files
	Registry string // base URL of the images
	Images   string // the folder that the registry serves
	Dataset  string // of the driver: images and tasks are below it
	Address  string // this host's, for others
	Media    string // a folder of the host that jobs may mount for reading
	Web      string // one that jobs may mount

	undo []func() error
}

// Open makes a site. On error nothing of it is left.
func Open(ctx context.Context, options Options) (*Site, error) {
	if options.Say == nil {
		options.Say = func(string, string) {}
	}
	s := &Site{Options: options, Address: address()}
	for _, step := range []func(*Site, context.Context) error{
		(*Site).makeFolders, (*Site).makePool, (*Site).makeImages, (*Site).serve, (*Site).startAgents,
	} {
		if err := step(s, ctx); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// Close takes down all that Open made, in reverse.
func (s *Site) Close() error {
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

func (s *Site) later(undo func() error) { s.undo = append(s.undo, undo) }

// Vars are the values of the variables that example jobs have.
func (s *Site) Vars() map[string]string {
	return map[string]string{"registry": s.Registry, "media": s.Media, "web": s.Web}
}

func (s *Site) makeFolders(context.Context) error {
	dir := filepath.Join(os.TempDir(), "site")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	s.later(func() error { return os.RemoveAll(dir) })
	s.Dir, s.Images, s.Media, s.Web = dir, dir+"/images", dir+"/media", dir+"/web"
	var err error
	for path, text := range map[string]string{
		"media/song":         "la la la\n",
		"web/nginx.conf":     "server {\n  listen 80;\n  root /mnt;\n}\n",
		"web/www/index.html": "<h1>2019 called</h1>\n",
		"images/hello.txt":   "hello world\n",
		"a/.keep":            "",
		"root/.keep":         "",
	} {
		path = filepath.Join(dir, path)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644))
	}
	return err
}

// makeImages builds with the project's own command, below a dataset apart, so that the driver has to pull what it runs.
func (s *Site) makeImages(context.Context) error {
	root := filepath.Join(s.Dir, "root")
	if err := rootfs.Make(root, s.Bin.Httpd); err != nil {
		return err
	}
	for _, image := range []struct{ name, command string }{
		{"web:1.0", "/usr/local/bin/httpd"},
		{"FBSD120-nginx:1.0", "/usr/local/bin/nginx"},
	} {
		if err := s.Publish(image.name, root, "--cmd", image.command); err != nil {
			return err
		}
	}
	return os.RemoveAll(root)
}

// Publish builds an image from a folder and puts it where the registry serves it.
func (s *Site) Publish(name, root string, options ...string) error {
	store := []string{"--dataset=" + s.Dataset + "-built", "--state-dir=" + filepath.Join(s.Dir, "built")}
	for _, command := range [][]string{
		append([]string{"image", "build", name, root}, options...),
		{"image", "export", name, s.Images},
	} {
		said, err := s.Command(append(command, store...)...)
		if err != nil {
			return err
		}
		s.Say("image", strings.TrimSpace(said))
	}
	return nil
}

// Command runs the plugin's binary as an operator would and returns what it printed.
func (s *Site) Command(args ...string) (string, error) {
	cmd := exec.Command(s.Bin.Plugin, args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out, problems.String())
	}
	return string(out), nil
}

func (s *Site) serve(context.Context) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(s.Address, "0"))
	if err != nil {
		return err
	}
	handler := http.FileServer(http.Dir(s.Images))
	if s.Serve != nil {
		handler = s.Serve(handler)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go server.Serve(listener)
	s.later(server.Close)
	s.Registry = "http://" + listener.Addr().String()
	s.Say("registry", s.Registry+" serves "+s.Images)
	return nil
}

const pluginConfig = `
dataset    = %q
state_dir  = %q
host_paths = [%q, %q]
allow      = ["host_network", "raw_sockets"]
consul {
  address = %q
}
%s
`

func (s *Site) startAgents(ctx context.Context) error {
	var err error
	s.Cluster, err = cluster.Start(ctx, cluster.Config{
		Dir: filepath.Join(s.Dir, "a"), Nomad: s.Bin.Nomad, Consul: s.Bin.Consul, Plugin: s.Bin.Plugin,
		ClientConfig: fmt.Sprintf("host_volume \"media\" {\n  path = %q\n  read_only = true\n}", s.Media),
		Interface:    isolate.Interface(), Bind: s.Bind, Split: s.Split, LogLevel: s.LogLevel,
		PluginConfig: func(consul string) string {
			return fmt.Sprintf(pluginConfig, s.Dataset, s.StateDir(), s.Media+":ro", s.Web, consul, s.More)
		},
	})
	if err != nil {
		return err
	}
	s.later(s.leaveHost)
	s.later(s.Cluster.Stop)
	s.later(s.nothingHeld)
	s.later(s.stopJobs)
	s.Say("consul", s.ConsulAddress())
	s.Say("nomad", s.NomadAddress())
	return nil
}

// Holding is a task as `nomad-driver-jail ps --json` tells it.
type Holding struct {
	Name    string
	Running bool
	State   struct{ TaskID, AllocID, Image, Digest, Root, Address string }
	Status  struct{ PID, ShimPID int }
	Parts   []string
}

// Holdings are the tasks on this host.
func (s *Site) Holdings() ([]Holding, error) {
	out, err := s.Command("ps", "--json", "--state-dir", s.StateDir())
	if err != nil {
		return nil, err
	}
	var list []Holding
	return list, json.Unmarshal([]byte(out), &list)
}

// Audit looks at all that a site may leave on a host of its own.
func (o *Options) Audit() (audit.State, error) {
	scope := audit.Scope{Processes: true, Folders: []string{os.TempDir()}}
	if o.Pool != "" {
		scope.Zfs = "zfs"
	}
	state, err := audit.Take(scope)
	// Nomad keeps cgroups of its own for the next time.
	state["cgroup"] = slices.DeleteFunc(state["cgroup"], func(c string) bool {
		return strings.Contains(c, "/nomad") && !strings.Contains(c, "nomad-driver-jail")
	})
	// So does go-plugin with the socket of a plugin that was killed.
	state["file"] = slices.DeleteFunc(state["file"], func(f string) bool { return strings.HasPrefix(filepath.Base(f), "plugin") })
	// And with the log collector of an alloc when it is killed just after starting it.
	state["process"] = slices.DeleteFunc(state["process"], func(p string) bool { return strings.HasSuffix(p, o.Bin.Nomad+" logmon") })
	return state, err
}

// NothingLeft compares the host with what Audit said before, and gives it time: FreeBSD keeps a jail that is removed for a minute when it
// had connections.
func (o *Options) NothingLeft(before audit.State) error {
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Second) {
		after, err := o.Audit()
		if err == nil {
			err = before.Left(after)
		}
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// StateDir is the driver's.
func (s *Site) StateDir() string { return filepath.Join(s.Dir, "state") }

func (s *Site) stopJobs() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	jobs, _, err := s.Cluster.Nomad.Jobs().List(nil)
	if err != nil {
		return err
	}
	var errs []error
	for _, j := range jobs {
		errs = append(errs, s.Job(j.ID).Stop(ctx))
	}
	return errors.Join(errs...)
}

// nothingHeld waits until the driver has removed all that it made for tasks.
func (s *Site) nothingHeld() error {
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		list, err := s.Holdings()
		if err == nil && len(list) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return errors.Join(err, fmt.Errorf("the driver left behind %+v", list))
		}
	}
}

// leaveHost takes away what the driver made for all tasks and keeps for the next ones.
func (s *Site) leaveHost() error {
	_, err := s.Command("gc", "--grace", "0s", "--all", "--state-dir", s.StateDir())
	return err
}

// address is the one that packets for elsewhere would leave from.
func address() string {
	conn, err := net.Dial("udp", "192.0.2.99:9")
	if err != nil {
		return "127.0.0.1"
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}
