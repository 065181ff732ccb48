// Package server starts private brokers that may be killed, stopped and broken:
// a redis-server, or a node of RabbitMQ, on free ports of the loopback, with all
// its files in one directory.
package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu/internal/proc"
)

// ErrMissing: the program is not installed.
var ErrMissing = errors.New("not installed")

// A Server is a private broker. Kill, Shutdown, Pause, Resume and Start are for
// one goroutine at a time; the rest may be called from any.
type Server struct {
	name     string
	addr     string
	dir      string
	command  func() *exec.Cmd
	pidFile  string // of the broker, when that is not the process started
	answers  func(ctx context.Context, addr string) error
	patience time.Duration

	wg   sync.WaitGroup // who waits for the process
	mu   sync.Mutex
	cmd  *exec.Cmd
	over chan struct{} // closed when cmd has ended

	url        string
	management string
	ctl        []string // rabbitmqctl and its environment
	env        []string
	tidy       func()
}

// URL is how gombu and Kombu reach it.
func (s *Server) URL() string { return s.url }

// Addr is its host:port.
func (s *Server) Addr() string { return s.addr }

// Management is the base URL of RabbitMQ's management API, with its user; empty
// on Redis.
func (s *Server) Management() string { return s.management }

// Answers asks the server something small; nil: it answered.
func (s *Server) Answers(ctx context.Context) error { return s.answers(ctx, s.addr) }

// Start starts it, again too, and returns when it answers.
func (s *Server) Start(ctx context.Context) error {
	if s.running() {
		return fmt.Errorf("%s runs already", s.name)
	}
	if s.pidFile != "" {
		_ = os.Remove(s.pidFile) // of the last time, if any
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	c := s.command()
	c.Stdout, c.Stderr = log, log
	proc.Apart(c)
	if err := c.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	over := make(chan struct{})
	s.mu.Lock()
	s.cmd, s.over = c, over
	s.mu.Unlock()
	s.wg.Go(func() {
		_ = c.Wait() // how it ended is not asked
		close(over)
	})
	return s.await(ctx, over)
}

func (s *Server) logFile() string { return filepath.Join(s.dir, s.name+".log") }

// await returns when the server answers, or why it never will.
func (s *Server) await(ctx context.Context, over chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		err := s.Answers(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-over:
			return fmt.Errorf("%s ended as it started: %s", s.name, s.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w: %s", s.name, err, s.lastWords())
		}
	}
}

// lastWords are the last lines of its output.
func (s *Server) lastWords() string {
	b, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(len(lines)-5, 0):], " | ")
}

func (s *Server) running() bool {
	_, over := s.process()
	if over == nil {
		return false
	}
	select {
	case <-over:
		return false
	default:
		return true
	}
}

func (s *Server) process() (*exec.Cmd, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cmd, s.over
}

// Pid is the broker's process; 0: it does not run.
func (s *Server) Pid() int {
	if !s.running() {
		return 0
	}
	if s.pidFile != "" {
		b, err := os.ReadFile(s.pidFile)
		if err != nil {
			return 0
		}
		pid, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
		return pid
	}
	c, _ := s.process()
	return c.Process.Pid
}

// Ended is closed when the process that runs now has ended; nil: none runs.
func (s *Server) Ended() <-chan struct{} {
	_, over := s.process()
	return over
}

// Kill is kill -9. It returns when the process is gone.
func (s *Server) Kill() error {
	pid := s.Pid()
	if pid == 0 {
		return nil
	}
	if err := proc.Kill(pid); err != nil {
		return err
	}
	return s.gone(10 * time.Second)
}

// Shutdown asks it to end and waits until it has.
func (s *Server) Shutdown() error {
	pid := s.Pid()
	if pid == 0 {
		return nil
	}
	if err := proc.Interrupt(pid); err != nil {
		return err
	}
	return s.gone(60 * time.Second)
}

func (s *Server) gone(within time.Duration) error {
	_, over := s.process()
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-over:
		return nil
	case <-t.C:
		return fmt.Errorf("%s has not ended in %v", s.name, within)
	}
}

// Pause stops the process in mid-breath (SIGSTOP); Resume lets it go on.
func (s *Server) Pause() error { return s.signal(proc.Stop) }

// Resume ends Pause.
func (s *Server) Resume() error { return s.signal(proc.Continue) }

func (s *Server) signal(f func(int) error) error {
	pid := s.Pid()
	if pid == 0 {
		return fmt.Errorf("%s does not run", s.name)
	}
	return f(pid)
}

// Close kills the server and what it brought along. Its files stay.
func (s *Server) Close() {
	if pid := s.Pid(); pid != 0 {
		_ = proc.Kill(pid)
		_ = s.gone(10 * time.Second) // it was killed: there is nothing more to do
	}
	s.wg.Wait()
	if s.tidy != nil {
		s.tidy()
	}
}

// Ctl runs rabbitmqctl on the node.
func (s *Server) Ctl(ctx context.Context, args ...string) (string, error) {
	if len(s.ctl) == 0 {
		return "", fmt.Errorf("%s has no rabbitmqctl", s.name)
	}
	c := exec.CommandContext(ctx, s.ctl[0], append(s.ctl[1:], args...)...)
	c.Env = s.env
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// freePorts are ports of the loopback that nobody listens on now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // kept until all are found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// ask writes a request and wants the answer to begin with one of these texts.
func ask(ctx context.Context, addr, request string, begins ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it was only asked
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	if _, err := c.Write([]byte(request)); err != nil {
		return err
	}
	buf := make([]byte, 16)
	n, err := c.Read(buf)
	if err != nil {
		return err
	}
	for _, b := range begins {
		if bytes.HasPrefix(buf[:n], []byte(b)) {
			return nil
		}
	}
	return fmt.Errorf("it says %q", buf[:n])
}
