package redis

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
