// Command demo runs a real job end to end: a pool, an image, a registry, Consul, Nomad, the plugin, examples/jobs/web.nomad.hcl, and its page.
// It stays up until it is interrupted, or with DEMO_ONCE=1 until it has shown all; then it leaves nothing behind, and checks that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/term"

	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/audit"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/isolate"
	"github.com/nomad-driver-jail/nomad-driver-jail/e2e/site"
	"github.com/nomad-driver-jail/nomad-driver-jail/examples"
)

func main() {
	var before audit.State
	isolate.Enter(isolate.Options{
		Network: isolate.Beside,
		Before:  func() { before, _ = audit.Take(audit.Scope{}) },
		After: func() error {
			after, err := audit.Take(audit.Scope{})
			if err != nil {
				return err
			}
			delete(after, "cgroup") // ours are removed or complained about; the machine's come and go
			return before.Left(after)
		},
	})
	options := site.Options{Pool: os.Getenv("POOL"), Bind: isolate.Address(), Say: say}
	options.Bin.Flags(flag.CommandLine)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := demo(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, options site.Options) error {
	before, err := options.Audit()
	if err != nil {
		return err
	}
	opening, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := site.Open(opening, options)
	if err != nil {
		return err
	}
	err = show(ctx, s)
	if err == nil {
		if os.Getenv("DEMO_ONCE") == "" {
			invite(s)
			<-ctx.Done()
			fmt.Println()
		}
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := options.NothingLeft(before); err != nil {
		return err
	}
	say("gone", "nothing is left: no process, mount, interface, firewall rule, dataset, cgroup or file")
	return nil
}

// show runs the job and tells what came to be.
func show(ctx context.Context, s *site.Site) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	text, err := examples.Job("web")
	if err != nil {
		return err
	}
	job, err := s.Run(text, s.Vars())
	if err != nil {
		return err
	}
	say("job", job.ID+" (examples/jobs/web.nomad.hcl)")
	alloc, err := job.Running(ctx)
	if err != nil {
		return err
	}
	say("alloc", alloc.ID)
	for _, e := range alloc.TaskStates["server"].Events {
		say("", e.Type+": "+e.DisplayMessage)
	}
	if err := showJail(s, alloc); err != nil {
		return err
	}
	port := alloc.AllocatedResources.Shared.Ports[0]
	address := net.JoinHostPort(s.Address, fmt.Sprint(port.Value))
	say("port", fmt.Sprintf("%s leads to %d in the jail", address, port.To))
	if err := showHealth(ctx, s, "web"); err != nil {
		return err
	}
	return showPage("http://" + address + "/")
}

func showJail(s *site.Site, alloc *nomad.Allocation) error {
	list, err := s.Holdings()
	if err != nil {
		return err
	}
	for _, h := range list {
		if h.State.AllocID != alloc.ID {
			continue
		}
		say("image", h.State.Image)
		say("digest", h.State.Digest)
		say("dataset", s.Dataset+"/tasks/"+h.Name)
		say("jail", fmt.Sprintf("%s, first process %d", h.Name, h.Status.PID))
		say("address", h.State.Address)
		return nil
	}
	return fmt.Errorf("nomad-driver-jail ps does not know alloc %s", alloc.ID)
}

func showHealth(ctx context.Context, s *site.Site, service string) error {
	for {
		entries, _, err := s.Cluster.Consul.Health().Service(service, "", true, nil)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			e := entries[0]
			for _, c := range e.Checks {
				if c.ServiceName == service {
					say("health", fmt.Sprintf("Consul says %s of %s at %s:%d (%s)", c.Status, service, e.Service.Address, e.Service.Port, c.Name))
				}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("service %s is not healthy for Consul: %w", service, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func showPage(url string) error {
	answer, err := (&http.Client{Timeout: 10 * time.Second}).Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	say("page", url+" answers "+answer.Status)
	for line := range strings.Lines(string(page)) {
		say("", strings.TrimSpace(line))
	}
	return nil
}

// invite tells what to try while it is up.
func invite(s *site.Site) {
	environment := ""
	if s.NomadAddress() != nomad.DefaultConfig().Address {
		environment = "export NOMAD_ADDR=" + s.NomadAddress() + "\n  "
	}
	fmt.Printf(`
Try in another terminal:
  %[1]s%[2]s job status web
  %[2]s alloc logs -job web
  %[2]s alloc exec -job web /bin/sh
  %[2]s alloc status -stats $(%[2]s job allocs -t '{{(index . 0).ID}}' web)
  %[2]s job stop web

Ctrl-C here ends all of it.
`, environment, s.Bin.Nomad)
}

var began = time.Now()

// say prints one thing that came to be, and when.
func say(what, how string) {
	bold, dim, plain := "\x1b[1m", "\x1b[2m", "\x1b[0m"
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		bold, dim, plain = "", "", ""
	}
	fmt.Printf("%s%5.1f s%s  %s%-9s%s %s\n", dim, time.Since(began).Seconds(), plain, bold, what, plain, how)
}
