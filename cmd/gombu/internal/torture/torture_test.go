package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/internal/leak"
	"github.com/gombu/gombu/internal/proc"
)

func TestMain(m *testing.M) { leak.Main(m) }

// Every fault says what it does, to whom, and why others cannot have it.
func TestFaultsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for i := range faults {
		f := &faults[i]
		if seen[f.name] || f.does == "" || f.inject == nil || len(f.on) == 0 || len(f.on) < len(Kinds) && f.instead == "" {
			t.Errorf("fault %q: %+v", f.name, f)
		}
		seen[f.name] = true
	}
	var list bytes.Buffer
	List(&list)
	if n := strings.Count(list.String(), "\n"); n != len(Kinds)*(len(faults)+1) {
		t.Errorf("the list has %d lines:\n%s", n, &list)
	}
	if names := FaultsOf(memory); !slices.Contains(names, "panic") || slices.Contains(names, "cut") {
		t.Error(names)
	}
}

// The same seed strikes at the same moments, in the part of the run where
// something is under way.
func TestMoments(t *testing.T) {
	at := func(seed uint64) []int {
		r := run{cfg: Config{Messages: 1000, Faults: []string{"cut", "delay"}, Times: 3}, dice: rand.New(rand.NewPCG(seed, seed))}
		return r.moments()
	}
	first := at(1)
	if len(first) != 6 || !slices.IsSorted(first) || first[0] < 100 || first[5] > 550 || !slices.Equal(first, at(1)) || slices.Equal(first, at(2)) {
		t.Error(first, at(1), at(2))
	}
}

func TestShares(t *testing.T) {
	r := run{cfg: Config{Messages: 10, Producers: 3}}
	if a, b, c := r.share(0), r.share(1), r.share(2); a+b+c != 10 || a != 4 || c != 3 {
		t.Error(a, b, c)
	}
	if n := r.tail(1000); n != 250 {
		t.Error("tail", n)
	}
	r.cfg.Rate = 30
	if n := r.tail(1000); n != 40 { // four seconds of a third of the rate
		t.Error("tail", n)
	}
}

func TestPaceMakesUpForNothing(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	if next := later(old, time.Second); time.Until(next) < 900*time.Millisecond {
		t.Error(next)
	}
	soon := time.Now().Add(time.Second)
	if next := later(soon, time.Second); !next.Equal(soon.Add(time.Second)) {
		t.Error(next)
	}
}

func TestRedisOptions(t *testing.T) {
	args, err := redisOptions("redis-server:?appendonly=no")
	if got := strings.Join(args, " "); err != nil || got != "--appendonly yes --appendfsync always --appendonly no" {
		t.Error(got, err)
	}
	if _, err := redisOptions("redis-server:?%zz"); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}

// A user's broker is what its flags say.
func TestOwnBroker(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pid")
	if err := os.WriteFile(file, []byte(strconv.Itoa(c.Process.Pid)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	o := &own{kind: redis, url: "redis://127.0.0.1:1", Broker: Broker{Pid: file, Ctl: "echo ctl", Start: "echo started >" + file + ".started; false"}}
	if o.Pid() != c.Process.Pid {
		t.Error(o.Pid())
	}
	if err := errors.Join(o.Pause(), o.Resume(), o.Kill()); err != nil {
		t.Error(err)
	}
	<-done
	if proc.Alive(o.Pid()) {
		t.Error("it outlived kill -9")
	}
	if out, err := o.Ctl(ctx, "set", "a b"); err != nil || out != "ctl set a b\n" {
		t.Error(out, err)
	}
	o.Broker.Ctl = "false"
	if _, err := o.Ctl(ctx, "x"); err == nil {
		t.Error("a command that failed succeeded")
	}
	ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if err := o.Start(ctx); err == nil {
		t.Error("nothing was started, and it answers")
	}
	if _, err := os.Stat(file + ".started"); err != nil {
		t.Error(err)
	}
	o.Broker.Pid = "/no/such/file"
	if err := o.Kill(); err == nil || o.Pid() != 0 {
		t.Error("killed without a pid")
	}
}

func TestTable(t *testing.T) {
	dir := t.TempDir()
	for name, r := range map[string]Result{
		"a": {Broker: redis, Fault: []string{"stop-consumer"}, Times: 2, For: 40 * time.Second, Consumers: "gombu", Report: ledger.Report{
			Sent: 100, Duplicated: 3, LongestSilence: time.Second,
			Faults: []ledger.FaultReport{{Resume: time.Second, Back: 2 * time.Second}, {Resume: 3 * time.Second, Back: time.Second}},
		}},
		"b": {Broker: redis, URL: "redis-server:?appendonly=no", Fault: []string{"kill-broker"}, Consumers: "gombu", Report: ledger.Report{
			Lost: 7, Faults: []ledger.FaultReport{{Resume: -1, Back: -1}},
		}},
		"c": {Broker: rabbitmq, QueueType: "quorum", Consumers: "kombu"},
	} {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	if err := WriteTable(&out, dir, "-"); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| stop-consumer (2 times; 40s) | gombu | 100 | 0 | 3 | 0 | 1s | 3s | 2s |\n",
		"| kill-broker (appendonly no) | gombu | 0 | 7 | 0 | 0 | 0s | never | never |\n",
		"| none | kombu | 0 | 0 | 0 | 0 | 0s | - | - |\n",
		"n/a: memory-alarm, disk-alarm (alarms are RabbitMQ's).\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, &out)
		}
	}
	doc := filepath.Join(dir, "doc.md")
	if err := WriteTable(nil, dir, doc); err == nil {
		t.Error("a document that is missing was written")
	}
	os.WriteFile(doc, []byte("before\n"+tableBegins+"\nold\n"+tableEnds+"\nafter\n"), 0o600)
	for range 2 {
		if err := WriteTable(nil, dir, doc); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(doc)
	if want := "before\n" + tableBegins + "\n\n" + out.String() + "\n" + tableEnds + "\nafter\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
	os.WriteFile(doc, []byte("no marks"), 0o600)
	if err := WriteTable(nil, dir, doc); err == nil {
		t.Error("a document without marks was written")
	}
	os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{"), 0o600)
	if err := WriteTable(&out, dir, "-"); err == nil {
		t.Error("a bad result was read")
	}
}
