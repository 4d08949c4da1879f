package network

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
)

// agent is a copy of the test in a jail: it serves and connects there on
// request. (On Linux a thread can do that; a jail is the whole process's.)
type agent struct {
	mu     sync.Mutex
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Scanner
	talks  int
}

type agentRequest struct {
	Op, Proto, From, To, Server string
	Port                        uint16
	Talk                        int
}

type agentAnswer struct{ Text, Err string }

// exe is kept, because it cannot always be told later.
var exe, _ = os.Executable()

func startAgent(t testing.TB, jid int) *agent {
	t.Helper()
	a := &agent{cmd: exec.Command(exe, "agent")}
	a.cmd.Stderr = os.Stderr
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Jail: jid}
	var err error
	if a.stdin, err = a.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.stdout = bufio.NewScanner(out)
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *agent) stop() {
	a.stdin.Close()
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *agent) do(r agentRequest) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := json.NewEncoder(a.stdin).Encode(r); err != nil {
		return "", err
	}
	if !a.stdout.Scan() {
		return "", fmt.Errorf("agent: %w", errors.Join(io.EOF, a.stdout.Err()))
	}
	var answer agentAnswer
	if err := json.Unmarshal(a.stdout.Bytes(), &answer); err != nil {
		return "", err
	}
	if answer.Err != "" {
		return "", errors.New(answer.Err)
	}
	return answer.Text, nil
}

type agentTalker struct {
	*agent
	talk int
}

func (a agentTalker) Say() (string, error) { return a.do(agentRequest{Op: "say", Talk: a.talk}) }

func (a agentTalker) Close() error {
	_, err := a.do(agentRequest{Op: "close", Talk: a.talk})
	return err
}

func (a *agent) dial(proto, to string) (talker, error) {
	a.mu.Lock()
	a.talks++
	talk := a.talks
	a.mu.Unlock()
	if _, err := a.do(agentRequest{Op: "dial", Proto: proto, To: to, Talk: talk}); err != nil {
		return nil, err
	}
	return agentTalker{a, talk}, nil
}

// runAgent is the agent's main function.
func runAgent() {
	talks := map[int]talker{}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var r agentRequest
		err := json.Unmarshal(in.Bytes(), &r)
		var text string
		if err == nil {
			text, err = answerAgent(talks, r)
		}
		answer := agentAnswer{Text: text}
		if err != nil {
			answer.Err = err.Error()
		}
		json.NewEncoder(os.Stdout).Encode(answer)
	}
}

func answerAgent(talks map[int]talker, r agentRequest) (string, error) {
	switch r.Op {
	case "serve":
		_, err := serve(r.Proto, r.Server, r.Port)
		return "", err
	case "dial":
		conn, err := dialHere(r.Proto, r.To)
		talks[r.Talk] = conn
		return "", err
	case "tell":
		d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(r.From)}}
		conn, err := d.Dial("udp4", r.To)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return "", err
	case "say":
		return talks[r.Talk].Say()
	case "close":
		return "", talks[r.Talk].Close()
	}
	return "", fmt.Errorf("agent: %q?", r.Op)
}
