package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// crashMessages is how many go through the crashes; 100000 by hand.
func crashMessages(t testing.TB) int {
	n, err := strconv.Atoi(os.Getenv("GOMBU_TEST_CRASH_MESSAGES"))
	if err != nil {
		n = 4000
	}
	t.Logf("%d messages (GOMBU_TEST_CRASH_MESSAGES)", n)
	return n
}

// handleForEver is a consumer process that is killed some day: it writes down
// what it handles, and then acks it.
func handleForEver() {
	c, err := fromText(os.Getenv("GOMBU_TEST_CHILD"))
	if err != nil {
		panic(err)
	}
	ledger, err := os.OpenFile(os.Getenv("GOMBU_TEST_LEDGER"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	connector, _ := New(c)
	for {
		handleSession(connector, ledger, os.Getenv("GOMBU_TEST_QUEUE"))
		time.Sleep(50 * time.Millisecond) // the process is to be killed, not to be quick
	}
}

func handleSession(connector driver.Connector, ledger *os.File, queue string) {
	ctx := context.Background()
	conn, err := connector.Connect(ctx, driver.Env{Role: driver.Consume, Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return
	}
	defer conn.Close(ctx)
	r, err := conn.OpenReceiver(ctx, driver.ReceiverConfig{Queue: queue, Prefetch: 100})
	if err != nil {
		return
	}
	in := make([]driver.Incoming, 10)
	for {
		n, err := r.Receive(ctx, in)
		if err != nil {
			return
		}
		st := make([]driver.Settlement, n)
		var lines strings.Builder
		for i := range n {
			fmt.Fprintf(&lines, "%s\n", in[i].Body)
			st[i].Tag = in[i].Tag
		}
		if _, err := ledger.WriteString(lines.String()); err != nil {
			panic(err)
		}
		for range 100 {
			if err := r.Settle(ctx, st); err == nil || conn.Err() != nil {
				break
			}
		}
	}
}

// Consumers are killed at random, all of them at once too, and so is the
// server, which writes everything down: what was published is handled, all of it.
func TestNothingIsLostInCrashes(tt *testing.T) {
	tt.Parallel()
	v, t := durable(tt)
	n := crashMessages(tt)
	file := filepath.Join(v.dir, "handled")
	var mu sync.Mutex
	var children []*exec.Cmd
	start := func() {
		cmd := childCommand(t, "handle", "q", "lease=5") // who dies while the server restarts is waited for that long
		cmd.Env = append(cmd.Env, "GOMBU_TEST_LEDGER="+file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		children = append(children, cmd)
	}
	kill := func(i int) {
		_ = children[i].Process.Kill()
		_ = children[i].Wait()
		children = append(children[:i], children[i+1:]...)
	}
	defer func() {
		for len(children) > 0 {
			kill(0)
		}
	}()
	var published sync.WaitGroup
	published.Go(func() { publishAll(t, n) })
	const consumers = 4
	rnd := rand.New(rand.NewPCG(1, 2))
	handled := func() map[string]int { mu.Lock(); defer mu.Unlock(); return readLedger(file) }
	began, rounds := time.Now(), 0
	for ; len(handled()) < n; rounds++ {
		if time.Since(began) > time.Minute+time.Duration(n)*2*time.Millisecond {
			break
		}
		for len(children) < consumers {
			start()
		}
		rest(context.Background(), time.Duration(200+rnd.IntN(600))*time.Millisecond)
		switch {
		case rounds > 20: // let them finish
		case rounds%7 == 6: // all of them
			for len(children) > 0 {
				kill(0)
			}
		case rounds%5 == 4:
			v.kill()
			v.start()
		default:
			kill(rnd.IntN(len(children)))
		}
	}
	published.Wait()
	got, twice := handled(), 0
	for i := range n {
		switch got[strconv.Itoa(i)] {
		case 0:
			t.Errorf("%d is lost", i)
		case 1:
		default:
			twice++
		}
	}
	t.Logf("%d handled, %d more than once, in %v and %d rounds", len(got), twice, time.Since(began).Round(time.Second), rounds)
}

func readLedger(file string) map[string]int {
	out := map[string]int{}
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if id, whole := strings.CutSuffix(line, "\n"); whole {
			out[id]++
		}
	}
	return out
}

// publishAll publishes the numbers below n, each until the broker has it.
func publishAll(t *tester, n int) {
	full, _ := t.config.withDefaults()
	for i := 0; i < n; {
		s, err := connect(context.Background(), full, driver.Env{Role: driver.Publish, Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			rest(context.Background(), 20*time.Millisecond)
			continue
		}
		for i < n && s.Err() == nil {
			var items []virtual.Item
			for j := i; j < min(i+10, n); j++ {
				items = append(items, virtual.Item{Queue: "q", Raw: []byte(envelope(strconv.Itoa(j), 0))})
			}
			err := s.Push(context.Background(), items)
			for j := range items {
				err = errors.Join(err, items[j].Err)
			}
			if err == nil {
				i += len(items)
			}
			if n <= 10000 {
				rest(context.Background(), 5*time.Millisecond) // so that the crashes fall into it
			}
		}
		_ = s.Close(context.Background())
	}
}

// holdOn is a consumer process that claims, is stopped for longer than its
// lease, and then finds out.
func holdOn() {
	s, claims := childClaims(10)
	in := bufio.NewReader(os.Stdin)
	fmt.Println("claimed", len(claims))
	_, _ = in.ReadString('\n')
	held := s.Hold(context.Background())
	st := make([]virtual.Settlement, len(claims))
	for i := range claims {
		st[i].Tag, st[i].Outcome = claims[i].Tag, driver.Outcome(i%3)
	}
	_ = s.Settle(context.Background(), st)
	lost := 0
	for i := range st {
		if errors.Is(st[i].Err, driver.ErrLeaseLost) {
			lost++
		}
	}
	<-s.Done()
	fmt.Println("hold", errors.Is(held, driver.ErrLeaseLost), "settles", lost, "session", errors.Is(s.Err(), driver.ErrLeaseLost))
	os.Exit(0)
}

// A process that is stopped keeps its claims until its lease ends, and not
// longer; then it finds out before it starts or settles anything, and nothing
// of the new owner's is touched.
func TestAStoppedConsumerKeepsItsClaimsForItsLease(tt *testing.T) {
	t := aside(tt)
	other, _ := t.consumer(func(c *Config) { c.Lease = minimumLease })
	for i := range 10 {
		t.push(other, "q", fmt.Sprint(i))
	}
	cmd := childCommand(t, "hold", "q", "lease=5")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	lines := bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	line, err := lines.ReadString('\n')
	if err != nil || line != "claimed 10\n" {
		t.Fatal(line, err)
	}
	eventually(t, "the mirror", func() bool { return t.number("HLEN", "unacked") == 10 })
	stopped := time.Now()
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claims to be taken over", func() bool { return t.number("LLEN", "q") == 10 })
	if took := time.Since(stopped); took < minimumLease {
		t.Errorf("taken over after %v", took)
	} else {
		t.Logf("taken over after %v", took)
	}
	got := t.claim(other, 10, "q")
	want(t, "in order", t.bodies(got), "0 1 2 3 4 5 6 7 8 9")
	_ = cmd.Process.Signal(syscall.SIGCONT)
	fmt.Fprintln(in)
	line, err = lines.ReadString('\n')
	if err != nil || line != "hold true settles 10 session true\n" {
		t.Fatal(line, err)
	}
	want(t, "what it gave back", t.number("LLEN", "q"), 0)
	t.mustSettle(other, driver.Ack, got...)
	eventually(t, "the stopped one to be forgotten", func() bool { return t.number("ZCARD", ownersKey) == 1 })
}

// A consumer that dies while others watch: its claims are back within five seconds.
func TestADeadConsumersClaimsAreBackInFiveSeconds(tt *testing.T) {
	t := aside(tt)
	watcher, _ := t.consumer()
	since := time.Now()
	eventually(t, "the watcher to have seen enough", func() bool { return time.Since(since) > vigilNew+beatEvery })
	t.push(watcher, "q", "a")
	killedChild(t, "q")
	killed := time.Now()
	eventually(t, "the claim to come back", func() bool { return t.number("LLEN", "q") == 1 })
	took := time.Since(killed)
	t.Logf("back after %v", took)
	if took > 5*time.Second+raceSlack {
		t.Error("too late")
	}
}
