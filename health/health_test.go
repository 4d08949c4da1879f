package health

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
)

// consul finds the agent's binary: CONSUL_BIN, bin/consul in the module, or the PATH.
func consul(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("CONSUL_BIN"); path != "" {
		return path
	}
	if path, err := filepath.Abs("../bin/consul"); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	path, err := exec.LookPath("consul")
	if err != nil {
		t.Fatal("there is no consul binary: set CONSUL_BIN, or build bin/consul with " +
			"`cd e2e/agents/consul && go build -o ../../../bin/consul github.com/hashicorp/consul`")
	}
	return path
}

// agent is a real Consul agent that remembers nothing when it is restarted.
type agent struct {
	t       *testing.T
	address string
	config  string
	rpc     int
	serf    int
	cmd     *exec.Cmd
	client  *api.Client
}

// newAgent has free ports for an agent, with more configuration in HCL, and does not start it.
// The host of its own is for the ports: other packages' tests take free ones too, between an agent's choice and its start.
func TestMain(m *testing.M) {
	isolate.Enter(isolate.Options{Network: isolate.Apart})
	os.Exit(m.Run())
}

func newAgent(t *testing.T, config, token string) *agent {
	t.Helper()
	ports := freePorts(t, 3)
	a := &agent{t: t, address: fmt.Sprintf("127.0.0.1:%d", ports[0]), rpc: ports[1], serf: ports[2], config: config}
	client, err := api.NewClient(&api.Config{Address: a.address, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	a.client = client
	t.Cleanup(a.stop)
	return a
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	a := newAgent(t, "", "")
	a.start()
	return a
}

func (a *agent) start() {
	a.t.Helper()
	_, port, _ := net.SplitHostPort(a.address)
	cmd := exec.Command(consul(a.t), "agent", "-dev", "-bind=127.0.0.1", "-log-level=warn", "-http-port="+port,
		fmt.Sprintf("-server-port=%d", a.rpc), fmt.Sprintf("-serf-lan-port=%d", a.serf), "-serf-wan-port=-1",
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-hcl="+a.config)
	cmd.Dir = a.t.TempDir()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.cmd = cmd
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("consul said:\n%s", log.Bytes())
		}
	})
	until(a.t, "Consul's leader", func() bool {
		leader, err := a.client.Status().Leader()
		return err == nil && leader != ""
	})
}

func (a *agent) stop() {
	if a.cmd != nil {
		a.cmd.Process.Kill()
		a.cmd.Wait()
		a.cmd = nil
	}
}

func (a *agent) services() map[string]*api.AgentService {
	s, err := a.client.Agent().Services()
	if err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (a *agent) has(serviceID string) bool {
	_, ok := a.services()[serviceID]
	return ok
}

// passing is the output of the jail's check, or "" while it does not pass.
func (a *agent) passing(id string) string {
	checks, err := a.client.Agent().Checks()
	if err != nil {
		a.t.Fatal(err)
	}
	if c := checks[checkID(id)]; c != nil && c.Status == api.HealthPassing {
		return c.Output
	}
	return ""
}

// passesAgain waits for a report after the one with this output.
func (a *agent) passesAgain(id, output string) {
	a.t.Helper()
	until(a.t, "another report", func() bool {
		now := a.passing(id)
		return now != "" && now != output
	})
}

func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}

// log is what the Reporter said.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

const (
	inTrouble = "Consul cannot be told"
	isBack    = "Consul is told again"
)

// report runs a Reporter until the test or stop ends it.
func report(t *testing.T, c Config) (r *Reporter, l *log, stop func()) {
	t.Helper()
	l = &log{}
	c.Enabled = true
	if c.TTL == 0 {
		c.TTL = 3 * time.Second
	}
	r, err := New(c, hclog.New(&hclog.LoggerOptions{Output: l}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return r, l, stop
}

var web = Instance{
	ID: "nj0123456789ab", Name: "web", Address: "10.88.0.2", Port: 80, Tags: []string{"www"},
	Meta: map[string]string{"alloc_id": "a1", "task": "web", "job": "site", "image": "web:1.4", "digest": "sha256:ab"},
	PID:  4711, Started: time.Now().Add(-time.Hour),
}

func TestRegisteredWhileItRuns(t *testing.T) {
	a := startAgent(t)
	r, l, _ := report(t, Config{Address: a.address, Node: "n1"})
	r.Register(web)
	until(t, "passing", func() bool { return a.passing(web.ID) != "" })

	s := a.services()["nomad-jail-nj0123456789ab"]
	if s == nil || s.Service != "nomad-jail" || s.Address != "10.88.0.2" || s.Port != 80 || !slices.Equal(s.Tags, web.Tags) {
		t.Errorf("service: %+v", s)
	}
	for key, want := range map[string]string{
		"alloc_id": "a1", "task": "web", "job": "site", "image": "web:1.4", "digest": "sha256:ab", "node": "n1",
	} {
		if s.Meta[key] != want {
			t.Errorf("meta %s is %q, wanted %q", key, s.Meta[key], want)
		}
	}
	output := a.passing(web.ID)
	if want := "jail nj0123456789ab runs web, pid 4711, up 1h0m"; !strings.HasPrefix(output, want) {
		t.Errorf("output %q, wanted %q…", output, want)
	}
	// Longer than the TTL, so only a Reporter that goes on reporting keeps it.
	a.passesAgain(web.ID, output)
	time.Sleep(4 * time.Second)
	if a.passing(web.ID) == "" {
		t.Error("not passing any more")
	}

	r.Deregister(web.ID)
	until(t, "gone", func() bool { return !a.has(ServiceID(web.ID)) })
	if l.count(inTrouble) > 0 {
		t.Errorf("log: %s", l.text.String())
	}
}

func TestCriticalWithoutAReporter(t *testing.T) {
	a := startAgent(t)
	r, _, stop := report(t, Config{Address: a.address, TTL: time.Second})
	r.Register(web)
	until(t, "passing", func() bool { return a.passing(web.ID) != "" })
	stop()
	until(t, "critical", func() bool { return a.passing(web.ID) == "" })
	if !a.has(ServiceID(web.ID)) {
		t.Error("the jail outlives the process that reported it, its registration does not")
	}
}

func TestAgentThatForgets(t *testing.T) {
	a := startAgent(t)
	r, l, _ := report(t, Config{Address: a.address})
	r.Register(web)
	until(t, "passing", func() bool { return a.passing(web.ID) != "" })
	a.stop()
	until(t, "a word on it", func() bool { return l.count(inTrouble) == 1 })
	a.start()
	until(t, "passing again", func() bool { return a.passing(web.ID) != "" })
	until(t, "a word on it", func() bool { return l.count(isBack) == 1 })
	if n := l.count(inTrouble); n != 1 {
		t.Errorf("trouble stated %d times", n)
	}
}

func TestNoAgent(t *testing.T) {
	a := newAgent(t, "", "")
	r, l, _ := report(t, Config{Address: a.address})
	began := time.Now()
	for i := range 200 {
		x := web
		x.ID = fmt.Sprintf("nj%012d", i)
		r.Register(x)
		if i > 0 {
			r.Deregister(x.ID)
		}
	}
	r.Reconcile(nil)
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("600 calls without Consul took %v", took)
	}
	until(t, "a word on it", func() bool { return l.count(inTrouble) == 1 })
	time.Sleep(2 * time.Second)
	a.start()
	until(t, "passing", func() bool { return a.passing("nj000000000000") != "" })
	until(t, "a word on it", func() bool { return l.count(isBack) == 1 })
	if n := l.count(inTrouble); n != 1 {
		t.Errorf("trouble stated %d times", n)
	}
	if a.has("nomad-jail-nj000000000001") {
		t.Error("a jail that ended meanwhile is registered")
	}
}

// An address where something listens and never answers is the agent that could block.
func TestAgentThatHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, said, stop := report(t, Config{Address: l.Addr().String()})
	began := time.Now()
	r.Register(web)
	time.Sleep(100 * time.Millisecond)
	r.Deregister(web.ID)
	stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %v", took)
	}
	if said.count(inTrouble) > 0 {
		t.Error("its own end is no trouble of Consul's")
	}
}

func TestStaleRegistrations(t *testing.T) {
	a := startAgent(t)
	// What an earlier process left: one jail alive, one not; beside them what is not ours.
	earlier, _, stop := report(t, Config{Address: a.address, Node: "n1"})
	neighbour, _, _ := report(t, Config{Address: a.address, Node: "n2"})
	instance := func(id string) Instance {
		x := web
		x.ID = id
		return x
	}
	earlier.Register(instance("alive"))
	earlier.Register(instance("dead"))
	neighbour.Register(instance("neighbour"))
	for _, id := range []string{"nomad-jail-operator", "_nomad-task-1"} {
		if err := a.client.Agent().ServiceRegister(&api.AgentServiceRegistration{ID: id, Name: "other"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"alive", "dead", "neighbour"} {
		until(t, id, func() bool { return a.has(ServiceID(id)) })
	}
	stop()

	r, _, _ := report(t, Config{Address: a.address, Node: "n1"})
	r.Reconcile([]string{"alive"})
	r.Register(instance("new"))
	until(t, "stale registration gone", func() bool { return !a.has(ServiceID("dead")) })
	until(t, "new", func() bool { return a.has(ServiceID("new")) })
	for _, id := range []string{"nomad-jail-alive", "nomad-jail-neighbour", "nomad-jail-operator", "_nomad-task-1"} {
		if !a.has(id) {
			t.Errorf("%s is gone too", id)
		}
	}
}

const secret = "7ab1ba3e-1111-2222-3333-123456789abc"

func TestToken(t *testing.T) {
	a := newAgent(t, `acl { enabled = true, default_policy = "deny", tokens { initial_management = "`+secret+`" } }`, secret)
	a.start()
	none, l, _ := report(t, Config{Address: a.address})
	x := web
	x.ID = "njnotoken"
	none.Register(x)
	until(t, "a word on the refusal", func() bool { return l.count(inTrouble) == 1 })
	if !strings.Contains(l.text.String(), "403") {
		t.Errorf("which does not say why: %s", l.text.String())
	}

	r, _, _ := report(t, Config{Address: a.address, Token: secret})
	until(t, "passing", func() bool {
		// A management token is not known before ACLs are up.
		r.Register(web)
		time.Sleep(200 * time.Millisecond)
		return a.passing(web.ID) != ""
	})
	if a.has("nomad-jail-njnotoken") {
		t.Error("registered without a token")
	}

	t.Setenv("CONSUL_HTTP_TOKEN", secret)
	t.Setenv("CONSUL_HTTP_ADDR", a.address)
	r, _, _ = report(t, Config{})
	x.ID = "njenvironment"
	r.Register(x)
	until(t, "passing with the environment's token", func() bool { return a.passing(x.ID) != "" })
}

// The agent wants a certificate of us, and shows one that is not made out to its address.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"tls", "ca", "create"}, {"tls", "cert", "create", "-server"}, {"tls", "cert", "create", "-client"},
	} {
		cmd := exec.Command(consul(t), args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("consul %q: %v\n%s", args, err, out)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	port := freePorts(t, 1)[0]
	a := newAgent(t, fmt.Sprintf(`ports { https = %d }, tls { https {
		ca_file = %q, cert_file = %q, key_file = %q, verify_incoming = true
	} }`, port, file("consul-agent-ca.pem"), file("dc1-server-consul-0.pem"), file("dc1-server-consul-0-key.pem")), "")
	a.start()
	t.Setenv("CONSUL_TLS_SERVER_NAME", "server.dc1.consul")
	t.Setenv("CONSUL_CACERT", file("consul-agent-ca.pem"))
	t.Setenv("CONSUL_CLIENT_CERT", file("dc1-client-consul-0.pem"))
	t.Setenv("CONSUL_CLIENT_KEY", file("dc1-client-consul-0-key.pem"))
	r, _, _ := report(t, Config{Address: fmt.Sprintf("https://127.0.0.1:%d", port)})
	r.Register(web)
	until(t, "passing", func() bool { return a.passing(web.ID) != "" })
}

// One refused jail must not keep the others from being reported. The agent takes any jail from us, so this one listens in
// its place and hands on what it does not refuse.
func TestOneRefusalIsNotAll(t *testing.T) {
	a := startAgent(t)
	front := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if strings.Contains(string(body), ServiceID("njbad")) {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		out, err := http.NewRequest(req.Method, "http://"+a.address+req.URL.String(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(out)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go front.Serve(l)
	defer front.Close()

	r, said, _ := report(t, Config{Address: l.Addr().String()})
	bad := web
	bad.ID = "njbad"
	r.Register(bad)
	r.Register(web)
	until(t, "passing", func() bool { return a.passing(web.ID) != "" })
	until(t, "a word on the other", func() bool { return said.count(inTrouble) == 1 })
	a.passesAgain(web.ID, a.passing(web.ID))
	r.Deregister(bad.ID)
	until(t, "a word on it", func() bool { return said.count(isBack) == 1 })
}

func TestDisabled(t *testing.T) {
	r, err := New(Config{}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	r.Register(web)
	r.Deregister(web.ID)
	r.Reconcile(nil)
	r.Run(context.Background())
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		config Config
		reason string
	}{
		{Config{TTL: time.Millisecond}, "consul: a TTL of 1ms leaves no time to report; 1s is the least"},
		{Config{Address: "ftp://x"}, "ftp"},
	} {
		test.config.Enabled = true
		_, err := New(test.config, hclog.NewNullLogger())
		if err == nil || !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%+v: %v", test.config, err)
		}
	}
	t.Setenv("CONSUL_CACERT", "/nonexistent/ca.pem")
	if _, err := New(Config{Enabled: true}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "/nonexistent/ca.pem") {
		t.Errorf("an authority that cannot be read: %v", err)
	}
}
