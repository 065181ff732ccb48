package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
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
	t.Parallel()
	set := startCluster(t)
	f := startTraffic(t, set.url(t, "?lease=5"), gombu.ProducerConfig{Replicas: 1}, set.queuesAt(0, 1, 2)...)
	f.more(100)
	set.servers[1].kill()
	var at time.Time
	eventually(t, "a new master", func() bool {
		at = time.Now()
		now := set.owner(set.servers[0], set.queuesAt(1)[0])
		return now != 1 && now >= 0 && strings.Contains(set.text(set.servers[0], "CLUSTER", "INFO"), "cluster_state:ok")
	})
	resumed(t, "kill -9 of a master", at, f)
	f.more(100)
	f.settled(30 * time.Second)
}

// clusterConfig is that of the shared test cluster, or skips.
func clusterConfig(t testing.TB) Config {
	t.Helper()
	c := configOf(t, "GOMBU_TEST_REDIS_CLUSTER", "redis+cluster://127.0.0.1:6401")
	if conn, err := net.DialTimeout("tcp", c.Cluster[0], 2*time.Second); err != nil {
		missing(t, "no Redis Cluster at "+c.Cluster[0]+" (scripts/services start redis-cluster): "+err.Error())
	} else {
		conn.Close()
	}
	return c
}

// configOf reads a URL from the environment.
func configOf(t testing.TB, env, url string) Config {
	t.Helper()
	var us []*dsn.URL
	for _, part := range dsn.Split(cmp.Or(os.Getenv(env), url)) {
		u, err := dsn.Parse(part)
		if err != nil {
			t.Fatal(err)
		}
		us = append(us, u)
	}
	c, err := FromURLs(us, driver.DialConfig{})
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

// migrate moves a slot, key by key, as an operator would.
func (set *clusterSet) migrate(slot uint16, from, to int) {
	set.Helper()
	n := strconv.Itoa(int(slot))
	source, target := set.servers[from], set.servers[to]
	host, port, _ := net.SplitHostPort(target.addr)
	set.text(target, "CLUSTER", "SETSLOT", n, "IMPORTING", set.ids[from])
	set.text(source, "CLUSTER", "SETSLOT", n, "MIGRATING", set.ids[to])
	for {
		m, err := ask(source.addr, "CLUSTER", "GETKEYSINSLOT", n, "2")
		keys, _ := m.AsStrSlice()
		if err != nil {
			set.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		if _, err := ask(source.addr, append([]string{"MIGRATE", host, port, "", "0", "5000", "KEYS"}, keys...)...); err != nil {
			set.Fatal(err)
		}
	}
	for _, v := range []*server{target, source} {
		set.text(v, "CLUSTER", "SETSLOT", n, "NODE", set.ids[to])
	}
}

// A slot moves there and back under load: claims stay whose they are, nothing
// is lost, and deliveries go on.
func TestClusterSlotMigration(t *testing.T) {
	t.Parallel()
	set := startCluster(t)
	queues := set.queuesAt(0, 1)
	f := startTraffic(t, set.url(t, ""), gombu.ProducerConfig{Replicas: 1}, queues...)
	slot := slotOf(queues[0])
	for i := range 4 {
		from, to := 2*(i%2), 2-2*(i%2)
		set.migrate(slot, from, to)
		resumed(t, fmt.Sprintf("move %d of a slot", i+1), time.Now(), f)
	}
	f.settled(20 * time.Second)
	if n := f.duplicates(); n > 0 {
		t.Errorf("%d were handled twice", n)
	}
	if n := f.lost.Load(); n > 0 {
		t.Errorf("%d sessions were lost", n)
	}
}

// A publish to two queues is a push for each slot. Cut in the middle it says
// which of them it reached.
func TestClusterPublishIsTorn(t *testing.T) {
	t.Parallel()
	set := startCluster(t)
	queues := set.queuesAt(0, 1)
	c := openConn(t, set.url(t, ""), &gombu.Config{Log: slog.New(slog.DiscardHandler)})
	p := c.Producer(&gombu.ProducerConfig{Exchange: "ex", Key: "k", Declare: &gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "ex", Type: gombu.Direct}},
		Queues:    []gombu.Queue{{Name: queues[0]}, {Name: queues[1]}},
		Bindings:  []gombu.Binding{{Exchange: "ex", Queue: queues[0], Key: "k"}, {Exchange: "ex", Queue: queues[1], Key: "k"}},
	}})
	if err := p.Publish(soon(t), &gombu.Message{Body: []byte("both")}); err != nil {
		t.Fatal(err)
	}
	if int(slotOf("ex"))*3/16384 == 1 {
		t.Fatal("the bindings lie at the node that is to be stopped: name the exchange otherwise")
	}
	pause(t, set.servers[1])
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := p.Publish(ctx, &gombu.Message{Body: []byte("torn")})
	wantKind(t, "torn", err, gombu.ErrUncertain)
	if says := "it reached " + queues[0] + ", and not for certain " + queues[1]; !strings.Contains(err.Error(), says) {
		t.Fatalf("%v: want it to say %q", err, says)
	}
	if err := p.Publish(ctx, &gombu.Message{Body: []byte("both again")}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"both torn both again", "both both again"} {
		m, err := ask(set.servers[set.owner(set.servers[0], queues[i])].addr, "LRANGE", "{"+queues[i]+"}", "0", "-1")
		texts, _ := m.AsStrSlice()
		slices.Reverse(texts)
		for n := range texts {
			var in driver.Incoming
			if kombu.Decode([]byte(texts[n]), &in) == nil {
				texts[n] = string(in.Body)
			}
		}
		if got := strings.Join(texts, " "); err != nil || got != want {
			t.Errorf("%s: have %q, %v, want %q", queues[i], got, err, want)
		}
	}
}

// Whose bytes reached nobody, and whose everybody, is not torn.
func TestTorn(t *testing.T) {
	fail := &driver.Error{Kind: driver.ErrNotSent}
	a, b, c := &driver.Outgoing{}, &driver.Outgoing{}, &driver.Outgoing{}
	items := []virtual.Item{{Queue: "1", Msg: a}, {Queue: "2", Msg: a, Err: fail}, {Queue: "3", Msg: a}, {Queue: "1", Msg: b, Err: fail}, {Queue: "2", Msg: b, Err: fail}, {Queue: "1", Msg: c}}
	torn(items)
	wantKind(t, "torn", items[1].Err, driver.ErrUncertain)
	if !strings.Contains(items[1].Err.Error(), "it reached 1, 3, and not for certain 2") {
		t.Fatal(items[1].Err)
	}
	for _, i := range []int{0, 2, 5} {
		wantKind(t, "reached", items[i].Err, nil)
	}
	want(t, "nowhere", items[3].Err == error(fail) && items[4].Err == error(fail), true)
}
