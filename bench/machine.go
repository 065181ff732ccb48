package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// dirty ends the revision of a tree with changes that are not committed.
const dirty = "-dirty"

// revision names the tree that is measured.
func revision(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty="+dirty).Output()
	if err != nil {
		return "unknown" + dirty
	}
	return strings.TrimSpace(string(out))
}

// field is the value behind a name in a file of /proc.
func field(file, name string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// preface is how the document begins: what was measured, where, and how to do
// it again.
func preface(ctx context.Context, suites []suiteResults) string {
	var revisions, days []string
	noisy, runs := 0, 0
	for _, s := range suites {
		for _, r := range s.results {
			revisions, days = append(revisions, r.Revision), append(days, r.At.Format(time.DateOnly))
			if runs++; r.Noisy {
				noisy++
			}
		}
	}
	slices.Sort(revisions)
	slices.Sort(days)
	return fmt.Sprintf(`# Benchmarks

Written by `+"`make bench`"+`. Gombu and what its users would pick instead do the same work in turns: rounds in
rotated order, each run in a process of its own, on servers of its own. Every
body is an object of five fields, encoded for each publish and decoded for each delivery unless the row says
otherwise; "limit" is a client written by hand that sends only the necessary bytes. CPU is user and system
seconds per 100 000 messages; allocations are of Go; peak is the largest resident set of the process. A run
beside which others used more than half a core is repeated, twice at most, and the quietest kept.

To repeat it: `+"`make bench`"+` (all, less than an hour), `+"`make bench SUITE=rabbitmq-consume`"+` (those that match). It goes
on where it was stopped; results are in bench/results. `+"`go run ./bench -h`"+` has the rest.

| | |
|---|---|
| revision | %s |
| day | %s |
| machine | %s |
| versions | %s |
| runs | %d, of which noisy: %d |

Absolute rates are this machine's; ratios travel better.

`, strings.Join(slices.Compact(revisions), ", "), strings.Join(slices.Compact(days), ", "), hardware(), strings.Join(versions(ctx), ", "), runs, noisy)
}

// hardware is the machine in a few words.
func hardware() string {
	memory, _ := strconv.ParseInt(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	paced, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control") // on the loopback too: see docs/decisions/034
	return fmt.Sprintf("%d cores, %s, %d GiB, %s/%s, TCP %s", runtime.NumCPU(), field("/proc/cpuinfo", "model name"), (memory+1<<19)>>20, runtime.GOOS, runtime.GOARCH,
		strings.TrimSpace(string(paced)))
}

// versions are those of the servers, the languages and the rivals; what is not
// installed is left out.
func versions(ctx context.Context) []string {
	all := []string{runtime.Version()}
	for _, p := range []string{"rabbitmq-server", "redis-server", "python3", "python3-kombu", "python3-amqp", "python3-redis", "python3-pika"} {
		if out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f=${Version}", p).Output(); err == nil && len(out) > 0 {
			all = append(all, p+" "+string(out))
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return all
	}
	for _, d := range info.Deps {
		if slices.ContainsFunc(rivals, func(r string) bool { return strings.HasPrefix(d.Path, r) }) {
			all = append(all, d.Path[strings.Index(d.Path, "/")+1:]+" "+d.Version)
		}
	}
	return all
}

// rivals are the modules that are named with their versions.
var rivals = []string{
	"github.com/rabbitmq/amqp091-go", "github.com/wagslane/go-rabbitmq", "github.com/ThreeDotsLabs/watermill", "github.com/redis/",
	"github.com/hibiken/asynq", "github.com/bytedance/sonic", "gocloud.dev", "github.com/nats-io/nats-server",
}
