package redis

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
)

func TestSlots(t *testing.T) {
	for name, slot := range map[string]uint16{"123456789": 0x31c3, "": 0, "foo": 12182, "bar": 5061, "{": 4092} {
		want(t, strconv.Quote(name), slotOf(name), slot)
	}
}

func TestSlotMap(t *testing.T) {
	const nodes = `07c3 127.0.0.1:7001@17001 myself,master - 0 0 7 connected 0-5459 5461 [93->-77e3]
67ed :7002@17002,host2,shard-id=x master - 0 1426238316232 2 connected 5460-10922
e7d1 127.0.0.1:7003@17003 slave e7d1 0 1426238318243 3 connected
6ec2 127.0.0.1:7004@17004 master,fail - 1426238316232 0 9 disconnected 10923-16383
77e3 ::1:7005@17005 master - 0 0 5 connected
`
	m, err := parseNodes(nodes, "10.0.0.9:1", false)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "ranges", fmt.Sprint(m), "[{0 5459 127.0.0.1:7001 7} {5461 5461 127.0.0.1:7001 7} {5460 10922 10.0.0.9:7002 2}]")
	_, ok := m.find(12000)
	want(t, "a dead master's slot", ok, false)
	m, _ = parseNodes(nodes, "10.0.0.9:1", true)
	r, _ := m.find(5460)
	want(t, "by its certificate's name", r.addr, "host2:7002")
	_, err = parseNodes("nonsense\n", "", false)
	if err == nil {
		t.Fatal("nonsense was read")
	}
}

// A clusterSet is three masters, each with a replica and the second with two, of
// the test's own.
type clusterSet struct {
	testing.TB
	servers []*server // the masters at the start, then the replicas
	ids     []string
}

func startCluster(t testing.TB) *clusterSet {
	t.Helper()
	set := &clusterSet{TB: t}
	for range 7 {
		set.servers = append(set.servers, startServer(t, "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1500",
			"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"))
	}
	for i, v := range set.servers {
		set.ids = append(set.ids, set.text(v, "CLUSTER", "MYID"))
		host, port, _ := net.SplitHostPort(set.servers[0].addr)
		if i > 0 {
			set.text(v, "CLUSTER", "MEET", host, port)
		}
		if i < 3 {
			args := []string{"CLUSTER", "ADDSLOTS"}
			for slot := i * 16384 / 3; slot < (i+1)*16384/3; slot++ {
				args = append(args, strconv.Itoa(slot))
			}
			set.text(v, args...)
		}
	}
	eventually(t, "the nodes to know each other", func() bool {
		for _, v := range set.servers {
			if strings.Count(set.text(v, "CLUSTER", "NODES"), " connected") != 7 {
				return false
			}
		}
		return true
	})
	for i := range 4 {
		set.text(set.servers[i+3], "CLUSTER", "REPLICATE", set.ids[[]int{0, 1, 2, 1}[i]])
	}
	eventually(t, "the cluster to be whole", func() bool {
		for i, v := range set.servers {
			if !strings.Contains(set.text(v, "CLUSTER", "INFO"), "cluster_state:ok") || strings.Count(set.text(v, "CLUSTER", "NODES"), "slave") != 4 {
				return false
			}
			if i < 3 && strings.Count(set.text(v, "INFO", "replication"), "state=online") != []int{1, 2, 1}[i] {
				return false
			}
		}
		return true
	})
	return set
}

func (set *clusterSet) text(v *server, args ...string) string {
	set.Helper()
	m, err := ask(v.addr, args...)
	if err != nil {
		set.Fatalf("%v: %v", args[:2], err)
	}
	text, _ := m.ToString()
	return text
}

// url is that of the set, with a dead seed first.
func (set *clusterSet) url(t testing.TB, options string) string {
	return "redis+cluster://" + freeAddr(t) + options + ";redis+cluster://" + set.servers[0].addr + ";redis+cluster://" + set.servers[4].addr
}

// owner is the index of the master that has a queue's slot, as this server sees it.
func (set *clusterSet) owner(seen *server, queue string) int {
	set.Helper()
	m, err := parseNodes(set.text(seen, "CLUSTER", "NODES"), seen.addr, false)
	if err != nil {
		set.Fatal(err)
	}
	r, _ := m.find(slotOf(queue))
	for i, v := range set.servers {
		if v.addr == r.addr {
			return i
		}
	}
	return -1
}

// queuesAt are names whose slots these masters have.
func (set *clusterSet) queuesAt(masters ...int) []string {
	var out []string
	for _, m := range masters {
		for n := 0; ; n++ {
			name := fmt.Sprintf("q%d.%d", m, n)
			if int(slotOf(name))*3/16384 == m {
				out = append(out, name)
				break
			}
		}
	}
	return out
}

// A master is killed under load: what a replica had is handled, and deliveries
// from all queues go on soon after the new master is there.
func TestClusterFailover(t *testing.T) {
	set := startCluster(t)
	f := startTraffic(t, set.url(t, "?lease=5"), gombu.ProducerConfig{Replicas: 1}, set.queuesAt(0, 1, 2)...)
	set.servers[1].kill()
	var at time.Time
	eventually(t, "a new master", func() bool {
		at = time.Now()
		now := set.owner(set.servers[0], set.queuesAt(1)[0])
		return now != 1 && now >= 0 && strings.Contains(set.text(set.servers[0], "CLUSTER", "INFO"), "cluster_state:ok")
	})
	resumed(t, "kill -9 of a master", at, f)
	f.settled(30 * time.Second)
}

// clusterConfig is that of the shared test cluster, or skips.
func clusterConfig(t testing.TB) Config {
	t.Helper()
	set := startCluster(t)
	c, err := fromText("redis+cluster://" + set.servers[0].addr)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// clusterKeys runs a command on every key of every master that fits, and shows
// what each answered.
func clusterKeys(t testing.TB, c Config, pattern, command string, args ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	m, err := ask(c.Cluster[0], "CLUSTER", "NODES")
	text, _ := m.ToString()
	slots, err2 := parseNodes(text, c.Cluster[0], false)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	for _, addr := range slots.masters() {
		m, err := ask(addr, "KEYS", pattern)
		if err != nil {
			t.Fatal(err)
		}
		keys, _ := m.AsStrSlice()
		for _, key := range keys {
			m, _ := ask(addr, append([]string{command, key}, args...)...)
			out[key] = m.String()
		}
	}
	return out
}
