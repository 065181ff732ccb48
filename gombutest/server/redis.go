package server

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"time"
)

// Redis makes a redis-server with its files in dir; Start starts it. args are
// options of redis-server; without any it writes every command to disk before
// it answers (appendonly, fsync always). The error is ErrMissing when there is
// none.
func Redis(dir string, args ...string) (*Server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis-server: %w", ErrMissing)
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		args = []string{"--appendonly", "yes", "--appendfsync", "always"}
	}
	port := strconv.Itoa(ports[0])
	addr := net.JoinHostPort("127.0.0.1", port)
	// The shell ignores SIGXFSZ for it: a write beyond a limit of size is then
	// refused, as on a full disk, instead of ending the process.
	all := append([]string{"-c", `trap '' XFSZ; exec "$0" "$@"`, program, "--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", ""}, args...)
	return &Server{
		name: "redis", addr: addr, dir: dir, url: "redis://" + addr + "/0", patience: time.Minute, answers: AnswersRedis,
		command: func() *exec.Cmd {
			c := exec.Command("/bin/sh", all...)
			c.Dir = dir
			return c
		},
	}, nil
}

// AnswersRedis says whether a Redis answers at addr, host:port; one that wants a
// password first does, one that loads its data does not.
func AnswersRedis(ctx context.Context, addr string) error {
	return ask(ctx, addr, "PING\r\n", "+PONG", "-NOAUTH")
}
