// Package cluster runs the real Nomad and Consul agents with the plugin, for tests, benchmarks and the demo.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/audit"
)

// Config says which agents run, and how.
type Config struct {
	Dir          string                     // all that the agents write; must exist
	Nomad        string                     // path of the nomad binary
	Consul       string                     // path of the consul binary
	Plugin       string                     // path of nomad-driver-jail; "" runs Nomad with its own drivers
	PluginArgs   []string                   // the plugin's command line
	Bind         string                     // address of the agents' HTTP interfaces beside 127.0.0.1, "" for none
	ClientConfig string                     // more inside of Nomad's client block, HCL
	PluginConfig func(consul string) string // inside of the plugin's config block, HCL; told Consul's address
	Interface    string                     // the interface of Nomad's host network, "" lets Nomad choose
	Split        bool                       // server and client as two processes, so that the client can be killed
	LogLevel     string                     // default "info"
}

// Cluster is one running Consul agent and one Nomad cell.
type Cluster struct {
	Config
	Nomad  *nomad.Client
	Consul *consul.Client

	ports  ports
	consul *process
	server *process // nil unless Split
	client *process // serves too unless Split
}

type ports struct {
	NomadHTTP, NomadRPC, NomadSerf, ClientHTTP int
	ConsulHTTP, ConsulServer, ConsulSerf       int
}

// Start returns when Nomad's client is ready for work, with the plugin's driver healthy if there is a plugin. On error nothing runs.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	if config.LogLevel == "" {
		config.LogLevel = "info"
	}
	c := &Cluster{Config: config}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Stop())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	var err error
	if err := c.ports.choose(); err != nil {
		return err
	}
	if c.Nomad, err = nomad.NewClient(&nomad.Config{Address: c.NomadAddress()}); err != nil {
		return err
	}
	if c.Consul, err = consul.NewClient(&consul.Config{Address: c.ConsulAddress()}); err != nil {
		return err
	}
	if err := c.installPlugin(); err != nil {
		return err
	}
	if err := c.startConsul(); err != nil {
		return err
	}
	if c.Split {
		if c.server, err = c.startNomad("server"); err != nil {
			return err
		}
	}
	return c.StartClient(ctx)
}

// NomadAddress is the URL of Nomad's HTTP interface.
func (c *Cluster) NomadAddress() string { return c.url(c.ports.NomadHTTP) }

// ConsulAddress is the URL of Consul's HTTP interface.
func (c *Cluster) ConsulAddress() string { return c.url(c.ports.ConsulHTTP) }

func (c *Cluster) url(port int) string {
	host := c.Bind
	if host == "" {
		host = "127.0.0.1"
	}
	return fmt.Sprintf("http://%s:%d", host, port)
}

// PluginDir is the folder that Nomad runs plugins from.
func (c *Cluster) PluginDir() string { return filepath.Join(c.Dir, "plugins") }

// ClientPID is the process that runs Nomad's client.
func (c *Cluster) ClientPID() int { return c.client.cmd.Process.Pid }

// StartClient starts Nomad's client after KillClient, and waits until it is ready.
func (c *Cluster) StartClient(ctx context.Context) error {
	role := "both"
	if c.Split {
		role = "client"
	}
	var err error
	if c.client, err = c.startNomad(role); err != nil {
		return err
	}
	return c.waitReady(ctx)
}

// KillClient ends Nomad's client with SIGKILL; its plugin stays.
func (c *Cluster) KillClient() error { return c.client.kill() }

// KillPlugin ends the plugin's processes with SIGKILL. A client that runs starts it again by itself.
func (c *Cluster) KillPlugin() error {
	pids, err := c.PluginPIDs()
	errs := []error{err}
	for _, pid := range pids {
		errs = append(errs, syscall.Kill(pid, syscall.SIGKILL))
	}
	return errors.Join(errs...)
}

// PluginPIDs are the plugin's processes; for moments, when Nomad inspects the plugin too, there are two.
func (c *Cluster) PluginPIDs() ([]int, error) {
	all, err := audit.Processes()
	var pids []int
	for _, line := range all {
		pid, command, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.Atoi(pid); err == nil && strings.HasPrefix(command, c.PluginDir()) {
			pids = append(pids, n)
		}
	}
	return pids, err
}

// ReplacePlugin puts another plugin in the place of the one that runs, and has Nomad start it, as an upgrade does.
func (c *Cluster) ReplacePlugin(path string) error {
	at := filepath.Join(c.PluginDir(), "nomad-driver-jail")
	if err := copyFile(path, at+".new"); err != nil {
		return err
	}
	if err := os.Rename(at+".new", at); err != nil {
		return err
	}
	return c.KillPlugin()
}

// Stop ends the agents and returns when they have gone. Jobs that still run go on running: stop them first.
func (c *Cluster) Stop() error {
	var errs []error
	if c.client != nil {
		errs = append(errs, c.collect())
	}
	for _, p := range []*process{c.client, c.server, c.consul} {
		errs = append(errs, p.stop())
	}
	return errors.Join(errs...)
}

// collect has Nomad remove the folders of allocs that are over, and what it mounted in them.
func (c *Cluster) collect() error {
	select {
	case <-c.client.done:
		return nil
	default:
	}
	if err := c.Nomad.System().GarbageCollect(); err != nil {
		return err
	}
	folder := filepath.Join(c.Dir, c.client.name, "alloc", "*")
	for range 100 {
		if left, err := filepath.Glob(folder); err != nil || len(left) == 0 {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil // of jobs that still run
}

// KeepLogs copies the agents' logs to a folder.
func (c *Cluster) KeepLogs(folder string) error {
	logs, err := filepath.Glob(filepath.Join(c.Dir, "*.log"))
	for _, log := range logs {
		err = errors.Join(err, copyFile(log, filepath.Join(folder, filepath.Base(log))))
	}
	return err
}

// Log returns the last lines of an agent's log: "consul", "both", "server" or "client".
func (c *Cluster) Log(agent string, lines int) string {
	text, _ := os.ReadFile(filepath.Join(c.Dir, agent+".log"))
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// installPlugin copies: Nomad takes every file of its plugin folder for a plugin and follows no links.
func (c *Cluster) installPlugin() error {
	if err := os.MkdirAll(c.PluginDir(), 0o755); err != nil || c.Plugin == "" {
		return err
	}
	return copyFile(c.Plugin, filepath.Join(c.PluginDir(), "nomad-driver-jail"))
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func (c *Cluster) startConsul() error {
	if err := c.write("consul.json", consulConfig, nil); err != nil {
		return err
	}
	var err error
	c.consul, err = c.run("consul", c.Config.Consul, "agent", "-config-file", filepath.Join(c.Dir, "consul.json"))
	return err
}

func (c *Cluster) startNomad(role string) (*process, error) {
	if err := c.write(role+".hcl", nomadConfig, map[string]any{"Role": role}); err != nil {
		return nil, err
	}
	return c.run(role, c.Config.Nomad, "agent", "-config", filepath.Join(c.Dir, role+".hcl"))
}

func (c *Cluster) write(name string, form *template.Template, more map[string]any) error {
	var text bytes.Buffer
	values := map[string]any{"Config": c.Config, "Ports": c.ports, "PluginDir": c.PluginDir(), "PluginConfig": ""}
	if c.PluginConfig != nil {
		values["PluginConfig"] = c.PluginConfig(fmt.Sprintf("127.0.0.1:%d", c.ports.ConsulHTTP))
	}
	for k, v := range more {
		values[k] = v
	}
	if err := form.Execute(&text, values); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Dir, name), text.Bytes(), 0o600)
}

// waitReady has no limit of its own but ctx's. It returns when the node is ready, Consul has a leader and the plugin's drivers are healthy, or with what an agent said last.
func (c *Cluster) waitReady(ctx context.Context) error {
	for {
		err := c.ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\n%s\n%s", err, c.Log("consul", 5), c.Log(c.client.name, 20))
		case <-c.client.done:
			return fmt.Errorf("nomad ended\n%s", c.Log(c.client.name, 20))
		case <-c.consul.done:
			return fmt.Errorf("consul ended\n%s", c.Log("consul", 20))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *Cluster) ready() error {
	if leader, err := c.Consul.Status().Leader(); err != nil || leader == "" {
		return fmt.Errorf("consul has no leader: %v", err)
	}
	node, err := c.Node()
	if err != nil {
		return err
	}
	if node.Status != "ready" {
		return fmt.Errorf("nomad's node is %s", node.Status)
	}
	// A client that was there before is still "ready" to the server, so ask something that only the client knows.
	if _, err := c.Nomad.Nodes().Stats(node.ID, nil); err != nil {
		return fmt.Errorf("nomad's client does not answer: %w", err)
	}
	if c.Plugin == "" {
		return nil
	}
	driver, ok := node.Drivers[c.DriverName()]
	if !ok || !driver.Detected || !driver.Healthy {
		return fmt.Errorf("driver %s is not healthy: %+v", c.DriverName(), driver)
	}
	return nil
}

// DriverName is the name that the plugin registers under.
func (c *Cluster) DriverName() string {
	for _, arg := range c.PluginArgs {
		if name, ok := strings.CutPrefix(arg, "--driver-name="); ok {
			return name
		}
	}
	return "jail"
}

// Node is the one client's node.
func (c *Cluster) Node() (*nomad.Node, error) {
	nodes, _, err := c.Nomad.Nodes().List(nil)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, errors.New("nomad has no node")
	}
	node, _, err := c.Nomad.Nodes().Info(nodes[0].ID, nil)
	return node, err
}

// choose takes the usual ports where they are free, so that the agents' own commands find them without being told.
func (p *ports) choose() error {
	for _, want := range []struct {
		port  *int
		usual int
	}{
		{&p.NomadHTTP, 4646}, {&p.NomadRPC, 4647}, {&p.NomadSerf, 4648}, {&p.ClientHTTP, 0},
		{&p.ConsulHTTP, 8500}, {&p.ConsulServer, 8300}, {&p.ConsulSerf, 8301},
	} {
		port, err := freePort(want.usual)
		if err != nil {
			return err
		}
		*want.port = port
	}
	return nil
}

func freePort(usual int) (int, error) {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", usual))
	if err != nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return 0, err
		}
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
