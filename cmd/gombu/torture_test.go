package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/cmd/gombu/internal/torture"
	"github.com/gombu/gombu/internal/leak"
	"github.com/gombu/gombu/internal/proc"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == torture.ChildCommand {
		main() // this binary is what the torture runs again
	}
	_ = os.Unsetenv("GOMBU_URL")
	leak.Main(m)
}

// tortured runs gombu torture, wants an exit status, and returns what it found.
func tortured(t *testing.T, code int, args ...string) torture.Result {
	t.Helper()
	need(t, args)
	start := time.Now()
	r := want(t, code, "", append([]string{"torture", "--json", "--seed", "7"}, args...)...)
	var res torture.Result
	if err := json.Unmarshal([]byte(r.out), &res); err != nil {
		t.Fatalf("%v: %s%s", err, r.out, r.err)
	}
	t.Logf("%v\n%s%v", args, r.err, &res)
	t.Logf("took %v", time.Since(start).Round(time.Millisecond))
	return res
}

// need skips, in CI fails, when a server that is to be started is not installed.
func need(t *testing.T, args []string) {
	t.Helper()
	for url, program := range map[string]string{"redis-server:": "redis-server", "rabbitmq-server:": "/usr/lib/rabbitmq/bin/rabbitmq-server"} {
		if !strings.HasPrefix(args[1], url) {
			continue
		}
		if _, err := exec.LookPath(program); err != nil {
			why := "no " + program + ": run scripts/install"
			if os.Getenv("CI") != "" {
				t.Fatal(why)
			}
			t.Skip(why)
		}
	}
}

func TestTortureMemory(t *testing.T) {
	faults := torture.FaultsOf("memory")
	res := tortured(t, 0, "-u", "memory://", "--fault", strings.Join(faults, ","), "--messages", "12000", "--work", "1ms", "--for", "1s", "--grace", "1s")
	if len(res.Faults) != len(faults) || res.Handled < res.Confirmed || res.Confirmed < 6000 {
		t.Errorf("%+v", res)
	}
}

func TestTortureRedis(t *testing.T) {
	tortured(t, 0, "-u", "redis-server:", "--fault", "kill-consumer,kill-producer,black-hole,client-kill,delete-queue",
		"--messages", "8000", "--rate", "1500", "--for", "2s")
}

// A broker of the user's own is killed by its pid file and started by a command.
func TestTortureOwnBroker(t *testing.T) {
	need(t, []string{"-u", "redis-server:"})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	start := "redis-server --bind 127.0.0.1 --port " + port + " --dir " + dir + " --pidfile " + pid + " --appendonly yes --appendfsync always --save '' --daemonize yes"
	if out, err := exec.Command("/bin/sh", "-c", start).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		b, err := os.ReadFile(pid)
		n, perr := strconv.Atoi(strings.TrimSpace(string(b)))
		if err = errors.Join(err, perr); err == nil {
			err = proc.Kill(n)
		}
		for err == nil && proc.Alive(n) {
			runtime.Gosched()
		}
		if err != nil {
			t.Error(err)
		}
	})
	tortured(t, 0, "-u", "redis://127.0.0.1:"+port, "--broker-pid", pid, "--broker-start", start, "--fault", "client-kill,stop-broker,kill-broker",
		"--messages", "6000", "--rate", "1500", "--for", "1s")
}

func TestTortureRabbitMQ(t *testing.T) {
	tortured(t, 0, "-u", "rabbitmq-server:", "--fault", "kill-consumers,half-close,memory-alarm,kill-broker,delete-queue",
		"--messages", "8000", "--rate", "1500", "--for", "2s")
}

func TestTortureQuorumQueue(t *testing.T) {
	tortured(t, 0, "-u", "rabbitmq-server:", "--queue-type", "quorum", "--fault", "kill-consumer,cut,stop-broker,kill-broker,delete-queue",
		"--messages", "8000", "--rate", "1500", "--for", "2s")
}

// Thirty consumers on Redis and twelve on RabbitMQ are told to end in mid-work:
// nothing is lost, nothing acknowledged is seen again, and they are in time.
func TestTortureShutdown(t *testing.T) {
	for url, times := range map[string]string{"redis-server:": "10", "rabbitmq-server:": "4"} {
		t.Run(url, func(t *testing.T) {
			t.Parallel()
			messages := map[string]string{"10": "34000", "4": "16000"}[times] // about as many seconds as it takes
			res := tortured(t, 0, "-u", url, "--fault", "term-consumers", "--times", times,
				"--messages", messages, "--rate", "1000", "--work", "5ms")
			if res.Duplicated > 0 || res.AckedAgain > 0 || res.Exit > 6*time.Second || res.Exit == 0 {
				t.Errorf("%+v", res)
			}
		})
	}
}

// A Redis that keeps nothing loses what it held when it is killed, and the
// torture says so.
func TestTortureFindsLoss(t *testing.T) {
	res := tortured(t, 1, "-u", "redis-server:?appendonly=no", "--fault", "kill-broker", "--messages", "4000", "--rate", "0", "--work", "10ms", "--patience", "10s")
	if res.Lost == 0 || len(res.LostIDs) == 0 || len(res.Wrong) == 0 || !strings.Contains(res.Wrong[0], "never handled") {
		t.Errorf("%+v", res)
	}
}

// Python's Kombu takes part, beside Go and alone. The faults beside it are those
// that Kombu on Redis survives: what a BRPOP has popped when its link ends is
// nowhere any more (docs/guarantees.md).
func TestTorturePython(t *testing.T) {
	if out, err := exec.Command("/usr/bin/python3", "-c", "import kombu, redis").CombinedOutput(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("no Kombu (%s): run scripts/install", out)
		}
		t.Skipf("no Kombu (%s): run scripts/install", out)
	}
	res := tortured(t, 0, "-u", "redis-server:", "--with-python", "--fault", "stop-broker,delay,kill-producer",
		"--for", "500ms", "--messages", "4000", "--rate", "1500")
	if res.Consumers != "both" {
		t.Errorf("%+v", res)
	}
	res = tortured(t, 0, "-u", "rabbitmq-server:", "--consumer", "python", "--messages", "1000")
	if res.Consumers != "kombu" || res.Handled != 1000 || res.Acked != 1000 {
		t.Errorf("%+v", res)
	}
}

func TestTortureUsage(t *testing.T) {
	list := want(t, 0, "", "torture", "--fault", "list").out
	for _, line := range []string{"kill-broker", "n/a: there is no link", "[--broker-pid, --broker-start]"} {
		if !strings.Contains(list, line) {
			t.Errorf("the list does not say %q:\n%s", line, list)
		}
	}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"give --url", nil},
		{"--broker-pid", []string{"-u", "redis://127.0.0.1:1", "--fault", "kill-broker"}},
		{"--rabbitmqctl", []string{"-u", "amqp://127.0.0.1:1", "--fault", "disk-alarm"}},
		{"--management", []string{"-u", "amqp://127.0.0.1:1", "--fault", "force-close"}},
		{"n/a on memory", []string{"-u", "memory://", "--fault", "cut"}},
		{"no fault \"fire\"", []string{"-u", "redis-server:", "--fault", "fire"}},
		{"cannot torture", []string{"-u", "http://x"}},
		{"--consumer", []string{"-u", "redis-server:", "--consumer", "perl"}},
		{"quorum queues are RabbitMQ's", []string{"-u", "redis-server:", "--queue-type", "quorum"}},
		{"too few", []string{"-u", "redis-server:", "--messages", "3"}},
		{"Python cannot", []string{"-u", "memory://", "--with-python"}},
		{"no Python", []string{"-u", "redis-server:", "--with-python", "--python", "/no/such/python"}},
		{"queue type", []string{"-u", "redis-server:", "--queue-type", "fast"}},
		{"at least 1", []string{"-u", "redis-server:", "--consumers", "-1"}},
	} {
		if r := want(t, 2, "", append([]string{"torture"}, c.args...)...); !strings.Contains(r.err, c.says) {
			t.Errorf("%v: %q does not say %q", c.args, r.err, c.says)
		}
	}
	if r := want(t, 2, "", torture.ChildCommand); !strings.Contains(r.err, "arg") {
		t.Error(r.err)
	}
}
