package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// server serves a changing set of rules.
type server struct {
	serving map[Rule]io.Closer
}

func newServer() *server { return &server{serving: map[Rule]io.Closer{}} }

// serve starts and stops what differs from the rules, and returns the errors
// of tasks whose rules could not be served.
func (s *server) serve(rules map[Rule]string) map[string]error {
	for r, c := range s.serving {
		if _, still := rules[r]; !still {
			c.Close()
			delete(s.serving, r)
		}
	}
	failed := map[string]error{}
	for r, task := range rules {
		if s.serving[r] != nil {
			continue
		}
		c, err := listen(r)
		if err != nil {
			failed[task] = errors.Join(failed[task], err)
			continue
		}
		s.serving[r] = c
	}
	return failed
}

func (s *server) close() { s.serve(nil) }

func listen(r Rule) (io.Closer, error) {
	family := "4"
	if r.Host.Addr().Is6() {
		family = "6"
	}
	if r.Proto == "udp" {
		return listenUDP("udp"+family, r)
	}
	return listenTCP("tcp"+family, r)
}

// conns can be closed all at once, and then takes no more.
type conns struct {
	mu     sync.Mutex
	open   map[io.Closer]bool
	closed bool
}

func (c *conns) add(conn io.Closer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Close()
		return false
	}
	if c.open == nil {
		c.open = map[io.Closer]bool{}
	}
	c.open[conn] = true
	return true
}

func (c *conns) remove(conn io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
	conn.Close()
}

func (c *conns) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
	return nil
}

const dialTimeout = 10 * time.Second

func listenTCP(network string, r Rule) (io.Closer, error) {
	l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(r.Host))
	if err != nil {
		return nil, fmt.Errorf("host port %s/tcp: %w", r.Host, err)
	}
	open := new(conns)
	open.add(l)
	go func() {
		for {
			client, err := l.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // no descriptors or the like: it may pass
				time.Sleep(100 * time.Millisecond)
				continue
			}
			go carry(open, client, network, r.Task)
		}
	}()
	return open, nil
}

func carry(open *conns, client *net.TCPConn, network string, task netip.AddrPort) {
	if !open.add(client) {
		return
	}
	defer open.remove(client)
	c, err := net.DialTimeout(network, task.String(), dialTimeout)
	if err != nil {
		client.SetLinger(0) // a reset, which is how the task would have refused
		return
	}
	server := c.(*net.TCPConn)
	if !open.add(server) {
		return
	}
	defer open.remove(server)
	var both sync.WaitGroup
	both.Go(func() { pass(server, client) })
	both.Go(func() { pass(client, server) })
	both.Wait()
}

// pass hands on one direction, its end included.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.SetLinger(0)
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}

const (
	udpIdle    = 90 * time.Second
	udpBuffer  = 64 << 10
	udpClients = 256 // at once, per rule
)

func listenUDP(network string, r Rule) (io.Closer, error) {
	l, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(r.Host))
	if err != nil {
		return nil, fmt.Errorf("host port %s/udp: %w", r.Host, err)
	}
	u := &udpServer{l: l, network: network, task: r.Task, clients: map[netip.AddrPort]*net.UDPConn{}}
	u.open.add(l)
	go u.run()
	return &u.open, nil
}

// udpServer keeps a socket to the task per client.
type udpServer struct {
	l       *net.UDPConn
	network string
	task    netip.AddrPort
	open    conns
	mu      sync.Mutex
	clients map[netip.AddrPort]*net.UDPConn
}

func (u *udpServer) run() {
	b := make([]byte, udpBuffer)
	for {
		n, client, err := u.l.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an earlier answer that nobody took
		}
		if c := u.client(client); c != nil {
			c.SetReadDeadline(time.Now().Add(udpIdle))
			c.Write(b[:n])
		}
	}
}

// client is nil when a datagram cannot be handed on; UDP may lose it.
func (u *udpServer) client(from netip.AddrPort) *net.UDPConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.clients[from]; c != nil || len(u.clients) >= udpClients {
		return c
	}
	c, err := net.DialUDP(u.network, nil, net.UDPAddrFromAddrPort(u.task))
	if err != nil || !u.open.add(c) {
		return nil
	}
	u.clients[from] = c
	go u.answers(from, c)
	return c
}

func (u *udpServer) answers(to netip.AddrPort, c *net.UDPConn) {
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.clients, to)
		u.open.remove(c)
	}()
	b := make([]byte, udpBuffer)
	for {
		n, err := c.Read(b)
		if errors.Is(err, net.ErrClosed) || isTimeout(err) {
			return
		}
		if err != nil {
			continue // the task refused one; it may listen later
		}
		c.SetReadDeadline(time.Now().Add(udpIdle))
		u.l.WriteToUDPAddrPort(b[:n], to)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
