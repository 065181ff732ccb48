package redis

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// A sentinelSet is a master, two replicas and three sentinels of the test's
// own, to be killed.
type sentinelSet struct {
	testing.TB
	servers   []*server // the first is master at the start
	sentinels []*server
}

const masterName = "gombu"

func startSentinels(t testing.TB, args ...string) *sentinelSet {
	t.Helper()
	set := &sentinelSet{TB: t}
	for i := range 3 {
		more := append([]string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}, args...)
		if i > 0 {
			host, port, _ := net.SplitHostPort(set.servers[0].addr)
			more = append(more, "--replicaof", host+" "+port)
		}
		set.servers = append(set.servers, startServer(t, more...))
	}
	for range 3 {
		set.sentinels = append(set.sentinels, startSentinel(t, set.servers[0].addr))
	}
	eventually(t, "the replicas to follow", func() bool {
		m, _ := ask(set.servers[0].addr, "INFO", "replication")
		info, _ := m.ToString()
		return strings.Count(info, "state=online") == 2
	})
	eventually(t, "the sentinels to know all", func() bool {
		for _, v := range set.sentinels {
			answer, _ := ask(v.addr, "SENTINEL", "MASTER", masterName)
			m, err := answer.AsStrMap()
			if err != nil || m["num-slaves"] != "2" || m["num-other-sentinels"] != "2" || m["flags"] != "master" {
				return false
			}
		}
		return true
	})
	return set
}

func startSentinel(t testing.TB, master string) *server {
	t.Helper()
	addr, dir := freeAddr(t), t.TempDir()
	host, port, _ := net.SplitHostPort(master)
	_, own, _ := net.SplitHostPort(addr)
	file := filepath.Join(dir, "sentinel.conf")
	err := os.WriteFile(file, fmt.Appendf(nil, "port %s\nbind 127.0.0.1\ndir %s\nlogfile %s\nsentinel monitor %[4]s %s %s 2\nsentinel down-after-milliseconds %[4]s 1000\nsentinel failover-timeout %[4]s 3000\n",
		own, dir, filepath.Join(dir, "log"), masterName, host, port), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	v := &server{TB: t, addr: addr, dir: dir, args: []string{file, "--sentinel"}}
	v.start()
	t.Cleanup(v.kill)
	return v
}

// url is that of the set, with the sentinels in this order.
func (set *sentinelSet) url(options string) string {
	var urls []string
	for i, v := range set.sentinels {
		u := "sentinel://" + v.addr + "/0"
		if i == 0 {
			u += "?master_name=" + masterName + options
		}
		urls = append(urls, u)
	}
	return strings.Join(urls, ";")
}

// master is the server that a sentinel alive names.
func (set *sentinelSet) master() *server {
	set.Helper()
	for _, t := range set.sentinels {
		if !t.alive() {
			continue
		}
		answer, _ := ask(t.addr, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName)
		addr, err := answer.AsStrSlice()
		if err != nil {
			continue
		}
		for _, v := range set.servers {
			if v.addr == net.JoinHostPort(addr[0], addr[1]) {
				return v
			}
		}
	}
	set.Fatal("no sentinel names a master")
	return nil
}

func (set *sentinelSet) replaced(old *server) (*server, time.Time) {
	set.Helper()
	var now *server
	eventually(set, "a new master", func() bool {
		now = set.master()
		return now != old
	})
	return now, time.Now()
}

const resumeTime = 2 * time.Second // after a new master is announced

// resumed checks how long deliveries took to go on; CI's machines get more room.
func resumed(t testing.TB, after string, announced time.Time, f *traffic) {
	t.Helper()
	f.resume(after)
	took := time.Since(announced)
	t.Logf("after %s: resumed within %v of the new master", after, took.Round(time.Millisecond))
	limit := resumeTime
	if os.Getenv("CI") != "" {
		limit *= 5
	}
	if took > limit {
		t.Fatalf("after %s: %v", after, took)
	}
}

// The shared set: what a user writes works.
func TestSentinelURL(t *testing.T) {
	const url = "sentinel://127.0.0.1:26391/3?master_name=gombu&min_other_sentinels=2;sentinel://127.0.0.1:26392;sentinel://127.0.0.1:26393"
	c := configOf(t, "GOMBU_TEST_REDIS_SENTINEL", url)
	if conn, err := net.DialTimeout("tcp", c.Sentinels[0], 2*time.Second); err != nil {
		missing(t, "no sentinels at "+c.Sentinels[0]+" (scripts/services start redis-sentinel): "+err.Error())
	} else {
		conn.Close()
	}
	f := startTraffic(t, cmp.Or(os.Getenv("GOMBU_TEST_REDIS_SENTINEL"), url), gombu.ProducerConfig{Replicas: 1}, "sentinel-"+rand.Text())
	f.more(10)
	f.settled(10 * time.Second)
	c.MasterName = "nobody"
	_, _, err := openWith(c)
	wantKind(t, "no such master", err, driver.ErrNotFound)
	c.MasterName, c.MinOtherSentinels, c.ConnectTimeout = masterName, 5, 500*time.Millisecond
	_, _, err = openWith(c)
	wantKind(t, "too few sentinels", err, driver.ErrUnavailable)
}

// Whatever single server or sentinel dies: what Replicas has confirmed is
// handled, and deliveries go on soon after the new master is known.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	set := startSentinels(t)
	set.sentinels[0].kill() // the first that is asked
	f := startTraffic(t, set.url("&lease=5"), gombu.ProducerConfig{Replicas: 1}, "q1", "q2")

	first := set.master()
	if _, err := ask(set.sentinels[1].addr, "SENTINEL", "FAILOVER", masterName); err != nil {
		t.Fatal(err)
	}
	second, at := set.replaced(first)
	resumed(t, "SENTINEL FAILOVER", at, f)

	set.sentinels[0].start()
	eventually(t, "the first sentinel to know the others", func() bool {
		answer, _ := ask(set.sentinels[0].addr, "SENTINEL", "MASTER", masterName)
		m, _ := answer.AsStrMap()
		host, port, _ := net.SplitHostPort(second.addr)
		return m["ip"] == host && m["port"] == port && m["num-slaves"] == "2" && m["flags"] == "master"
	})
	eventually(t, "two replicas", func() bool {
		answer, _ := ask(second.addr, "INFO", "replication")
		info, _ := answer.ToString()
		return strings.Count(info, "state=online") == 2
	})
	second.kill()
	_, at = set.replaced(second)
	resumed(t, "kill -9 of the master", at, f)
	f.settled(30 * time.Second)
}

// A master that is stopped, and so cannot refuse anything, is left as well.
func TestSentinelLeavesASilentMaster(t *testing.T) {
	t.Parallel()
	set := startSentinels(t)
	f := startTraffic(t, set.url("&lease=5"), gombu.ProducerConfig{Replicas: 1}, "q1")
	first := set.master()
	pause(t, first)
	_, at := set.replaced(first)
	resumed(t, "SIGSTOP of the master", at, f)
	f.settled(30 * time.Second)
}

// A sentinel that was cut off tells of the master of before: the others know
// better.
func TestAStaleSentinelIsNotBelieved(t *testing.T) {
	t.Parallel()
	set := startSentinels(t)
	first := set.master()
	pause(t, set.sentinels[0])
	if _, err := ask(set.sentinels[1].addr, "SENTINEL", "FAILOVER", masterName); err != nil {
		t.Fatal(err)
	}
	set.sentinels[0], set.sentinels[1] = set.sentinels[1], set.sentinels[0] // asked first: the one that runs
	second, _ := set.replaced(first)
	host, port, _ := net.SplitHostPort(first.addr)
	stale := fakeSentinel(t, host, port)
	c, err := fromText("redis://ignored")
	if err != nil {
		t.Fatal(err)
	}
	c.Sentinels, c.MasterName = []string{stale, set.sentinels[0].addr, set.sentinels[2].addr}, masterName
	s, _, err := openWith(c)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "master", s.link.addr, second.addr)
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	// Alone it is asked in vain: the server that it names is a replica now.
	eventually(t, "the old master to be a replica", func() bool {
		m, _ := ask(first.addr, "ROLE")
		role, _ := m.ToArray()
		what := ""
		if len(role) > 0 {
			what, _ = role[0].ToString()
		}
		return what == "slave"
	})
	c.Sentinels, c.ConnectTimeout = c.Sentinels[:1], 500*time.Millisecond
	_, _, err = openWith(c)
	wantKind(t, "a replica", err, driver.ErrUnavailable)
}

// fakeSentinel is one that has heard nothing since the beginning.
func fakeSentinel(t testing.TB, host, port string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hello := "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"
	bulk := func(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }
	serve(t, l, func(args []string) string {
		switch {
		case args[0] == "HELLO":
			return hello
		case args[0] == "SENTINEL" && args[1] == "MASTER":
			return "%3\r\n" + bulk("flags") + bulk("master") + bulk("config-epoch") + bulk("0") + bulk("num-other-sentinels") + bulk("2")
		case args[0] == "SENTINEL":
			return "*2\r\n" + bulk(host) + bulk(port)
		}
		return "+OK\r\n"
	})
	return l.Addr().String()
}
