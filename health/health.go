// Package health tells the local Consul agent, and through it load balancers, which jails run: each is a service instance
// with a TTL check that passes for as long as the jail runs and this process says so. Consul never delays a task: calls
// return at once, and what they ask for is done, and done again, by Run.
package health

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
)

// Config is how to reach Consul. What is empty or not here (TLS, a token's file, namespace and partition) comes from the usual CONSUL_*
// environment, then Consul's defaults.
type Config struct {
	// Enabled false makes every method of the Reporter do nothing.
	Enabled bool

	Address string // "127.0.0.1:8500", "https://…", or "unix:///…"
	Token   string

	// Service is the name of the service whose instances the jails are; "nomad-jail" if empty.
	Service string
	// TTL is after how long without a word Consul calls a jail critical; 30 s if zero. The word goes out every third of it.
	TTL time.Duration
	// Node tells our registrations from those of another Nomad client that shares the Consul agent; the hostname if empty.
	Node string
}

// Instance is a running jail.
type Instance struct {
	ID      string // the jail's name; the service ID in Consul is ServiceID(ID)
	Name    string // the task's name, for people
	Address string // the jail's own; the Consul agent's if empty
	Port    int
	Tags    []string
	Meta    map[string]string // alloc_id, task, job, image, digest; Register adds node and driver

	PID     int       // of the first process on the host; 0 is left out
	Started time.Time // when it started; when it was registered if zero
}

const (
	prefix     = "nomad-jail-"
	driverKey  = "driver"
	driverName = "nomad-driver-jail"
	nodeKey    = "node"
)

// ServiceID is the jail's service ID in Consul. It may not begin with _nomad: Nomad's client deregisters whatever does and
// is not its own.
func ServiceID(id string) string { return prefix + id }

// Reporter keeps Consul's view equal to what was registered. Its methods can be called from any goroutine.
type Reporter struct {
	config Config
	agent  *api.Agent
	logger hclog.Logger
	wake   chan struct{} // holds one: something changed

	mu        sync.Mutex
	jails     map[string]*registration
	ended     map[string]bool // to deregister
	reconcile map[string]bool // jails alive when Reconcile was called; nil when that is done
}

// registration is a jail and whether Consul knows of it as it is now.
type registration struct {
	Instance
	known bool
}

// New does not contact Consul; it fails only on what can never work, such as an unreadable certificate.
func New(config Config, logger hclog.Logger) (*Reporter, error) {
	r := &Reporter{
		config: config, logger: logger, wake: make(chan struct{}, 1),
		jails: map[string]*registration{}, ended: map[string]bool{},
	}
	if !config.Enabled {
		return r, nil
	}
	if r.config.Service == "" {
		r.config.Service = "nomad-jail"
	}
	if r.config.TTL == 0 {
		r.config.TTL = 30 * time.Second
	}
	if r.config.TTL < time.Second {
		return nil, fmt.Errorf("consul: a TTL of %v leaves no time to report; 1s is the least", r.config.TTL)
	}
	if r.config.Node == "" {
		var err error
		if r.config.Node, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("consul: no node name in the configuration, and the host has none: %w", err)
		}
	}
	client, err := api.NewClient(r.config.client())
	if err != nil {
		return nil, fmt.Errorf("consul: %w", err)
	}
	r.agent = client.Agent()
	return r, nil
}

// client lays what is configured over what the environment says.
func (c Config) client() *api.Config {
	a := api.DefaultConfig()
	if c.Address != "" {
		a.Address = c.Address
	}
	if c.Token != "" {
		a.Token, a.TokenFile = c.Token, ""
	}
	return a
}

// Register has the jail reported as passing from now on, until Deregister.
func (r *Reporter) Register(i Instance) {
	if i.Started.IsZero() {
		i.Started = time.Now()
	}
	meta := maps.Clone(i.Meta)
	if meta == nil {
		meta = map[string]string{}
	}
	meta[driverKey], meta[nodeKey] = driverName, r.config.Node
	i.Meta = meta
	r.change(func() {
		r.jails[i.ID] = &registration{Instance: i}
		delete(r.ended, i.ID)
	})
}

// Deregister takes the jail out of Consul. One that was never registered is no error.
func (r *Reporter) Deregister(id string) {
	r.change(func() {
		delete(r.jails, id)
		r.ended[id] = true
	})
}

// Reconcile removes registrations that an earlier process of this node left behind for jails that run no more: all but
// the IDs given and those registered meanwhile.
func (r *Reporter) Reconcile(alive []string) {
	r.change(func() {
		r.reconcile = map[string]bool{}
		for _, id := range alive {
			r.reconcile[id] = true
		}
	})
}

func (r *Reporter) change(f func()) {
	if !r.config.Enabled {
		return
	}
	r.mu.Lock()
	f()
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// asked is what is to be done, copied so that nobody waits for Consul while it is.
type asked struct {
	jails     []registration // sorted by ID
	ended     []string
	reconcile map[string]bool
}

func (r *Reporter) asked() asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := asked{ended: slices.Sorted(maps.Keys(r.ended)), reconcile: r.reconcile}
	for _, id := range slices.Sorted(maps.Keys(r.jails)) {
		a.jails = append(a.jails, *r.jails[id])
	}
	return a
}
