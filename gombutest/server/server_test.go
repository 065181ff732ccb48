package server

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/gombu/gombu/internal/leak"
	"github.com/gombu/gombu/internal/proc"
)

func TestMain(m *testing.M) { leak.Main(m) }

// started starts a server that the test ends, or skips.
func started(t *testing.T, s *Server, err error) *Server {
	t.Helper()
	if errors.Is(err, ErrMissing) && os.Getenv("CI") == "" {
		t.Skipf("%v: run scripts/install", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRedis(t *testing.T) {
	s, err := Redis(t.TempDir())
	s = started(t, s, err)
	deaths(t, s)
	if err := s.Shutdown(); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(); err == nil || s.Pid() != 0 {
		t.Error("it does not run, and was paused", s.Pid())
	}
	if _, err := s.Ctl(t.Context(), "status"); err == nil {
		t.Error("a redis-server has no rabbitmqctl")
	}
	bad, err := Redis(t.TempDir(), "--no-such-option", "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.Start(t.Context()); err == nil {
		t.Error("it started with a wrong option")
	}
}

func TestRabbitMQ(t *testing.T) {
	s, err := RabbitMQ(t.TempDir())
	s = started(t, s, err)
	deaths(t, s)
	if out, err := s.Ctl(t.Context(), "list_vhosts"); err != nil || out == "" {
		t.Error(out, err)
	}
	if _, err := s.Ctl(t.Context(), "no_such_command"); err == nil {
		t.Error("a wrong command succeeded")
	}
}

// deaths pauses, kills and starts again.
func deaths(t *testing.T, s *Server) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pid := s.Pid()
	must(s.Pause())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Answers(ctx); err == nil {
		t.Error("a paused server answered")
	}
	must(s.Resume())
	must(s.Answers(t.Context()))
	if err := s.Start(t.Context()); err == nil {
		t.Error("it was started twice")
	}
	must(s.Kill())
	if proc.Alive(pid) || s.Pid() != 0 || s.Answers(t.Context()) == nil {
		t.Error("it outlived kill -9")
	}
	must(s.Kill()) // again does no harm
	must(s.Start(t.Context()))
	if s.Pid() == pid || s.Pid() == 0 {
		t.Error("pid", s.Pid(), "after", pid)
	}
}
