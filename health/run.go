package health

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	patience   = 5 * time.Second // for one answer of the agent, which is on this host
	firstRetry = 500 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Run talks to Consul until ctx ends. Jails that run then stay registered: they outlive this process, and the next one
// goes on within the TTL.
func (r *Reporter) Run(ctx context.Context) {
	if !r.config.Enabled {
		return
	}
	interval := r.config.TTL / 3
	var trouble error
	retry := firstRetry
	next := time.NewTimer(0)
	defer next.Stop()
	beat := time.Now() // when all jails are to be reported passing again
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
		case <-r.wake:
			// In trouble, what is new waits with the rest.
			if trouble != nil {
				continue
			}
		}
		all := trouble != nil || !time.Now().Before(beat)
		err := r.sync(ctx, all)
		if ctx.Err() != nil {
			return
		}
		r.tell(trouble, err)
		if all {
			beat = time.Now().Add(interval)
		}
		trouble = err
		if err == nil {
			retry = firstRetry
			next.Reset(time.Until(beat))
			continue
		}
		next.Reset(retry)
		retry = min(2*retry, lastRetry, interval)
	}
}

// tell logs when trouble begins and when it is over, not each time it is met.
func (r *Reporter) tell(before, now error) {
	switch {
	case before == nil && now != nil:
		r.logger.Warn("Consul cannot be told which jails run; tasks are not affected, trying again", "error", now)
	case before != nil && now == nil:
		r.logger.Info("Consul is told again which jails run")
	}
}

// sync makes Consul's view ours. Jails that Consul knows are reported passing only when all is set. It goes on after an
// answer that refuses one jail, and stops when there is no answer.
func (r *Reporter) sync(ctx context.Context, all bool) error {
	a := r.asked()
	var work []func(context.Context) error
	for _, id := range a.ended {
		work = append(work, func(ctx context.Context) error { return r.deregister(ctx, id) })
	}
	for _, j := range a.jails {
		if !j.known {
			work = append(work, func(ctx context.Context) error { return r.register(ctx, j) })
		} else if all {
			work = append(work, func(ctx context.Context) error { return r.pass(ctx, j) })
		}
	}
	if a.reconcile != nil {
		work = append(work, func(ctx context.Context) error { return r.removeStale(ctx, a.reconcile) })
	}
	var refused error
	for _, f := range work {
		err := within(ctx, f)
		if err != nil && !answered(err) {
			return err
		}
		if refused == nil {
			refused = err
		}
	}
	return refused
}

func within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f(ctx)
}

func answered(err error) bool {
	var status api.StatusError
	return errors.As(err, &status)
}

func notFound(err error) bool {
	var status api.StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

func checkID(id string) string { return ServiceID(id) + "-runs" }

func (r *Reporter) register(ctx context.Context, j registration) error {
	err := r.agent.ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID:      ServiceID(j.ID),
		Name:    r.config.Service,
		Address: j.Address,
		Port:    j.Port,
		Tags:    j.Tags,
		Meta:    j.Meta,
		Check: &api.AgentServiceCheck{
			CheckID: checkID(j.ID),
			Name:    "jail runs",
			TTL:     r.config.TTL.String(),
			Status:  api.HealthPassing,
		},
	}, api.ServiceRegisterOpts{ReplaceExistingChecks: true}.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("register %s: %w", ServiceID(j.ID), err)
	}
	// A registration cannot say why it passes.
	if err := r.agent.UpdateTTLOpts(checkID(j.ID), j.output(), api.HealthPassing, query(ctx)); err != nil {
		return fmt.Errorf("report %s passing: %w", ServiceID(j.ID), err)
	}
	r.setKnown(j)
	return nil
}

// setKnown is for the registration that was sent, not one that came with the same ID meanwhile.
func (r *Reporter) setKnown(sent registration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if j := r.jails[sent.ID]; j != nil && j.Started.Equal(sent.Started) {
		j.known = true
	}
}

func (r *Reporter) pass(ctx context.Context, j registration) error {
	err := r.agent.UpdateTTLOpts(checkID(j.ID), j.output(), api.HealthPassing, query(ctx))
	if answered(err) {
		// The agent was restarted and forgot; its word for that has changed over the years.
		return r.register(ctx, j)
	}
	if err != nil {
		return fmt.Errorf("report %s passing: %w", ServiceID(j.ID), err)
	}
	return nil
}

// output is what Consul shows beside the check.
func (j registration) output() string {
	s := fmt.Sprintf("jail %s runs", j.ID)
	if j.Name != "" {
		s += " " + j.Name
	}
	if j.PID > 0 {
		s += fmt.Sprintf(", pid %d", j.PID)
	}
	return s + fmt.Sprintf(", up %v", time.Since(j.Started).Truncate(time.Second))
}

func (r *Reporter) deregister(ctx context.Context, id string) error {
	err := r.agent.ServiceDeregisterOpts(ServiceID(id), query(ctx))
	if err != nil && !notFound(err) {
		return fmt.Errorf("deregister %s: %w", ServiceID(id), err)
	}
	r.mu.Lock()
	delete(r.ended, id)
	r.mu.Unlock()
	return nil
}

// removeStale looks through the agent's services; a registration is ours if its meta says so.
func (r *Reporter) removeStale(ctx context.Context, alive map[string]bool) error {
	filter := fmt.Sprintf("Meta.%s == %q and Meta.%s == %q", driverKey, driverName, nodeKey, r.config.Node)
	services, err := r.agent.ServicesWithFilterOpts(filter, query(ctx))
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for serviceID := range services {
		id, ours := strings.CutPrefix(serviceID, prefix)
		if !ours || alive[id] || r.registered(id) {
			continue
		}
		r.logger.Info("removing Consul's registration of a jail that runs no more", "id", serviceID)
		if err := r.deregister(ctx, id); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.reconcile = nil
	r.mu.Unlock()
	return nil
}

func (r *Reporter) registered(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.jails[id] != nil
}

func query(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{}).WithContext(ctx)
}
