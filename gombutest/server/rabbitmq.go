package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// rabbitHomes are where distributions put RabbitMQ's scripts. Those in PATH are
// often wrappers that insist on a user of their own.
var rabbitHomes = []string{"/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"}

func rabbitProgram(name string) (string, error) {
	for _, home := range rabbitHomes {
		if p, err := exec.LookPath(filepath.Join(home, name)); err == nil {
			return p, nil
		}
	}
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("%s: %w", name, ErrMissing)
}

// RabbitMQ makes a node with its files in dir and with the management plugin;
// Start starts it. The error is ErrMissing when there is none.
func RabbitMQ(dir string) (*Server, error) {
	program, err := rabbitProgram("rabbitmq-server")
	if err != nil {
		return nil, err
	}
	ctl, err := rabbitProgram("rabbitmqctl")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	amqp, management, dist, epmd := ports[0], ports[1], ports[2], ports[3]
	conf := fmt.Sprintf(`listeners.tcp.1 = 127.0.0.1:%d
management.tcp.ip = 127.0.0.1
management.tcp.port = %d
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 2GB
log.file.level = warning
`, amqp, management)
	for name, text := range map[string]string{"rabbitmq.conf": conf, "enabled_plugins": "[rabbitmq_management].\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(amqp))
	s := &Server{
		name: "rabbitmq", addr: addr, dir: dir, url: "amqp://guest:guest@" + addr + "/", patience: 3 * time.Minute, answers: AnswersAMQP,
		management: fmt.Sprintf("http://guest:guest@127.0.0.1:%d", management),
		pidFile:    filepath.Join(dir, "pid"), ctl: []string{ctl, "-q"},
		env: append(os.Environ(), rabbitEnvironment(dir, amqp, dist, epmd)...),
	}
	s.command = func() *exec.Cmd {
		// Erlang sizes a table by the limit of open files, which containers set
		// to a billion.
		c := exec.Command("/bin/sh", "-c", `ulimit -n 65536 2>/dev/null; exec "$0"`, program)
		c.Dir, c.Env = dir, s.env
		return c
	}
	s.tidy = func() {
		c := exec.Command("epmd", "-kill")
		c.Env = s.env
		_ = c.Run() // the daemon of this node alone: it has its own port
	}
	return s, nil
}

func rabbitEnvironment(dir string, amqp, dist, epmd int) []string {
	return []string{
		"HOME=" + dir, // of the Erlang cookie
		fmt.Sprintf("RABBITMQ_NODENAME=gombu%d@localhost", amqp),
		"RABBITMQ_MNESIA_BASE=" + filepath.Join(dir, "mnesia"), "RABBITMQ_LOG_BASE=" + filepath.Join(dir, "log"),
		"RABBITMQ_CONFIG_FILE=" + filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_ENABLED_PLUGINS_FILE=" + filepath.Join(dir, "enabled_plugins"),
		"RABBITMQ_CONF_ENV_FILE=/dev/null", "RABBITMQ_PID_FILE=" + filepath.Join(dir, "pid"),
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", amqp), fmt.Sprintf("RABBITMQ_DIST_PORT=%d", dist),
		fmt.Sprintf("ERL_EPMD_PORT=%d", epmd), "ERL_EPMD_ADDRESS=127.0.0.1",
		// Two schedulers that do not spin: the machine is shared with the tests.
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
	}
}

// AnswersAMQP says whether an AMQP 0-9-1 broker answers at addr, host:port.
func AnswersAMQP(ctx context.Context, addr string) error {
	return ask(ctx, addr, "AMQP\x00\x00\x09\x01", "\x01") // connection.start, a method frame
}
