package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// Job is a job that was given to Nomad.
type Job struct {
	ID      string
	Spec    *nomad.Job
	cluster *Cluster
}

var variable = regexp.MustCompile(`(?m)^variable\s+"([^"]+)"`)

// Parse reads a jobspec. Of vars it takes those that the jobspec declares.
func (c *Cluster) Parse(jobspec string, vars map[string]string) (*nomad.Job, error) {
	var values strings.Builder
	for _, m := range variable.FindAllStringSubmatch(jobspec, -1) {
		if value, ok := vars[m[1]]; ok {
			fmt.Fprintf(&values, "%s = %s\n", m[1], strconv.Quote(value))
		}
	}
	return c.Nomad.Jobs().ParseHCLOpts(&nomad.JobsParseRequest{JobHCL: jobspec, Variables: values.String(), Canonicalize: true})
}

// Run parses a jobspec and gives it to Nomad.
func (c *Cluster) Run(jobspec string, vars map[string]string) (*Job, error) {
	spec, err := c.Parse(jobspec, vars)
	if err != nil {
		return nil, err
	}
	return c.Register(spec)
}

// Register gives a job to Nomad.
func (c *Cluster) Register(spec *nomad.Job) (*Job, error) {
	if _, _, err := c.Nomad.Jobs().Register(spec, nil); err != nil {
		return nil, err
	}
	return &Job{ID: *spec.ID, Spec: spec, cluster: c}, nil
}

// Job is one that Nomad has.
func (c *Cluster) Job(id string) *Job { return &Job{ID: id, cluster: c} }

// Allocs are the job's allocs, newest first.
func (j *Job) Allocs() ([]*nomad.AllocationListStub, error) {
	allocs, _, err := j.cluster.Nomad.Jobs().Allocations(j.ID, false, nil)
	slices.SortFunc(allocs, func(a, b *nomad.AllocationListStub) int { return int(b.CreateIndex) - int(a.CreateIndex) })
	return allocs, err
}

// Wait returns the newest alloc once done says so; before that, done may give a reason to stop waiting. When ctx ends the error tells what
// the alloc was at last.
func (j *Job) Wait(ctx context.Context, done func(*nomad.AllocationListStub) (bool, error)) (*nomad.Allocation, error) {
	last := errors.New("no alloc was placed")
	for {
		allocs, err := j.Allocs()
		if err != nil {
			return nil, err
		}
		if len(allocs) > 0 {
			last = fmt.Errorf("alloc %s is %s", allocs[0].ID[:8], Describe(allocs[0].ClientStatus, allocs[0].TaskStates))
			ok, err := done(allocs[0])
			if err != nil {
				return nil, fmt.Errorf("%w: %w", last, err)
			}
			if ok {
				alloc, _, err := j.cluster.Nomad.Allocations().Info(allocs[0].ID, nil)
				return alloc, err
			}
		} else if reason := j.unplaced(); reason != "" {
			last = errors.New("no alloc was placed: " + reason)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("job %s: %w: %w", j.ID, ctx.Err(), last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// unplaced is why Nomad placed nothing.
func (j *Job) unplaced() string {
	evals, _, err := j.cluster.Nomad.Jobs().Evaluations(j.ID, nil)
	if err != nil {
		return err.Error()
	}
	var reasons []string
	for _, e := range evals {
		for group, m := range e.FailedTGAllocs {
			reasons = append(reasons, fmt.Sprintf("group %s: filtered %v, exhausted %v", group, m.ConstraintFiltered, m.DimensionExhausted))
		}
	}
	return strings.Join(reasons, "; ")
}

// Running waits until every task of the job's newest alloc runs, or has done so and ended well.
func (j *Job) Running(ctx context.Context) (*nomad.Allocation, error) {
	return j.Wait(ctx, func(a *nomad.AllocationListStub) (bool, error) {
		if a.ClientStatus == nomad.AllocClientStatusFailed {
			return false, errors.New("it should run")
		}
		for _, t := range a.TaskStates {
			if t.State == "pending" {
				return false, nil
			}
		}
		return a.ClientStatus == nomad.AllocClientStatusRunning, nil
	})
}

// Ended waits until the job's newest alloc is over, whichever way.
func (j *Job) Ended(ctx context.Context) (*nomad.Allocation, error) {
	return j.Wait(ctx, func(a *nomad.AllocationListStub) (bool, error) {
		return over(a), nil
	})
}

func over(a *nomad.AllocationListStub) bool {
	return a.ClientStatus != nomad.AllocClientStatusPending && a.ClientStatus != nomad.AllocClientStatusRunning
}

// Stop takes the job away and waits until Nomad has ended all its allocs.
func (j *Job) Stop(ctx context.Context) error {
	if _, _, err := j.cluster.Nomad.Jobs().Deregister(j.ID, false, nil); err != nil {
		return err
	}
	for {
		allocs, err := j.Allocs()
		if err != nil {
			return err
		}
		open := slices.IndexFunc(allocs, func(a *nomad.AllocationListStub) bool { return !over(a) })
		if open < 0 {
			_, _, err := j.cluster.Nomad.Jobs().Deregister(j.ID, true, nil)
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("job %s does not stop: %s", j.ID, Describe(allocs[open].ClientStatus, allocs[open].TaskStates))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Describe tells in words what an alloc's tasks went through.
func Describe(status string, tasks map[string]*nomad.TaskState) string {
	var b strings.Builder
	b.WriteString(status)
	for name, t := range tasks {
		for _, e := range t.Events {
			fmt.Fprintf(&b, "\n\t%s: %s: %s", name, e.Type, e.DisplayMessage)
		}
	}
	return b.String()
}

// Logs returns what a task has written to "stdout" or "stderr" up to now.
func (c *Cluster) Logs(alloc *nomad.Allocation, task, stream string) (string, error) {
	cancel := make(chan struct{})
	defer close(cancel)
	frames, errs := c.Nomad.AllocFS().Logs(alloc, false, task, stream, "start", 0, cancel, nil)
	var text bytes.Buffer
	for {
		select {
		case err := <-errs:
			if err == nil || errors.Is(err, io.EOF) {
				return text.String(), nil
			}
			return text.String(), err
		case frame, ok := <-frames:
			if !ok {
				return text.String(), nil
			}
			text.Write(frame.Data)
		}
	}
}

// WaitLog returns a task's log once it contains want.
func (c *Cluster) WaitLog(ctx context.Context, alloc *nomad.Allocation, task, stream, want string) (string, error) {
	for {
		text, err := c.Logs(alloc, task, stream)
		if strings.Contains(text, want) {
			return text, nil
		}
		select {
		case <-ctx.Done():
			return text, fmt.Errorf("%s of task %s has no %q (%v):\n%s", stream, task, want, err, text)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Exec runs a command in a task, with stdin if it is not "".
func (c *Cluster) Exec(ctx context.Context, alloc *nomad.Allocation, task string, stdin string, command ...string) (stdout, stderr string, code int, err error) {
	var out, problems bytes.Buffer
	code, err = c.Nomad.Allocations().Exec(ctx, alloc, task, false, command, strings.NewReader(stdin), &out, &problems, nil, nil)
	return out.String(), problems.String(), code, err
}
