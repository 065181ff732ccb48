package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// result is what one command did.
type result struct {
	code     int
	out, err string
}

func (r result) lines() []string {
	if r.out == "" {
		return nil
	}
	return strings.Split(strings.TrimRight(r.out, "\n"), "\n")
}

// call runs one command to its end.
func call(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var out, err bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &err)
	return result{code, out.String(), err.String()}
}

// want fails unless the command ended with code.
func want(t *testing.T, code int, stdin string, args ...string) result {
	t.Helper()
	r := call(t, stdin, args...)
	if r.code != code {
		t.Fatalf("gombu %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	return r
}

// each runs test on every transport; a server that is missing skips, in CI it fails.
func each(t *testing.T, test func(t *testing.T, u string, unique func(string) string)) {
	t.Helper()
	urls := map[string]string{
		"memory": "memory://cli-" + rand.Text(),
		"amqp":   "amqp://guest:guest@127.0.0.1:5673/",
		"redis":  "redis://127.0.0.1:6390/7",
	}
	if v := os.Getenv("GOMBU_TEST_AMQP"); v != "" {
		urls["amqp"] = v
	}
	if v := os.Getenv("GOMBU_TEST_REDIS"); v != "" {
		urls["redis"] = strings.TrimRight(v, "/") + "/7"
	}
	for _, name := range []string{"memory", "amqp", "redis"} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(urls[name])
			if err != nil {
				t.Fatal(err)
			}
			if name != "memory" {
				c, err := net.DialTimeout("tcp", u.Host, 2*time.Second)
				if err != nil {
					why := fmt.Sprintf("no server for %s at %s: start it with scripts/services start", name, u.Host)
					if os.Getenv("CI") != "" {
						t.Fatal(why)
					}
					t.Skip(why)
				}
				_ = c.Close()
			}
			salt := strings.ToLower(rand.Text()[:8])
			test(t, urls[name], func(what string) string {
				full := "gombu.cli." + salt + "." + what
				t.Cleanup(func() { call(t, "", "delete", "-u", urls[name], "-q", full) })
				return full
			})
		})
	}
}

func TestPublishConsume(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "", "publish", "-u", u, "-q", q, "-H", "kind=clip", "-H", "tries=3", "-H", `list=[1,"x"]`, "--priority", "2",
			"--correlation-id", "c1", "--reply-to", "r1", "--message-id", "m1", "--expiration", "1m", `{"name": "/tmp/lolcat1.avi", "size": 12345678901234567890}`)
		r := want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "20s")
		var got map[string]any
		if err := json.Unmarshal([]byte(r.out), &got); err != nil {
			t.Fatalf("%v: %s", err, r.out)
		}
		if !strings.Contains(r.out, `"size":12345678901234567890`) {
			t.Errorf("the number is not exact: %s", r.out)
		}
		headers, _ := got["headers"].(map[string]any)
		props, _ := got["properties"].(map[string]any)
		if headers["kind"] != "clip" || headers["tries"] != 3.0 || fmt.Sprint(headers["list"]) != "[1 x]" {
			t.Errorf("headers %v", headers)
		}
		for k, v := range map[string]any{"correlation_id": "c1", "reply_to": "r1", "message_id": "m1", "priority": 2.0, "expiration": "60000", "delivery_mode": 2.0} {
			if props[k] != v {
				t.Errorf("property %s is %v, want %v", k, props[k], v)
			}
		}
		if got["content_type"] != "application/json" || got["content_encoding"] != "utf-8" || got["queue"] != q || got["routing_key"] != q || got["exchange"] != "" || got["redelivered"] != false {
			t.Errorf("%s", r.out)
		}
		if r := want(t, 4, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "300ms"); r.out != "" {
			t.Errorf("a second message: %s", r.out)
		}
	})
}

func TestExchangesAndFiles(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		e, q := unique("e"), unique("q")
		want(t, 0, "", "declare", "-u", u, "-e", e, "--type", "topic", "-q", q, "-k", "a.#")
		t.Cleanup(func() { call(t, "", "delete", "-u", u, "-e", e) })
		want(t, 0, "1\n2\n3\n", "publish", "-u", u, "-e", e, "--type", "topic", "-k", "a.b.c", "-f", "-")
		want(t, 0, "", "publish", "-u", u, "-e", e, "-k", "a.b", "-s", "text", "--compression", "zlib", "-n", "2", "héllo")
		r := want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "5", "--timeout", "20s", "--format", "body")
		if got := strings.Join(r.lines(), " "); got != "1 2 3 héllo héllo" {
			t.Errorf("got %s", got)
		}
		r = want(t, 1, "", "publish", "-u", u, "-e", e, "-k", "nobody", "1")
		if !strings.Contains(r.err, "unroutable") {
			t.Errorf("said %s", r.err)
		}
		want(t, 0, "", "publish", "-u", u, "-e", e, "-k", "nobody", "--mandatory=false", "1")
	})
}

func TestSettlingFlags(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "1\n2\n3\n", "publish", "-u", u, "-q", q, "-f", "-")
		for range 2 {
			r := want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "2", "--timeout", "20s", "--ack", "requeue", "--format", "body")
			if got := strings.Join(r.lines(), " "); got != "1 2" {
				t.Fatalf("requeue: got %s", got)
			}
		}
		r := want(t, 0, "", "queues", "-u", u, "--json", q)
		if !strings.Contains(r.out, `"ready":3`) {
			t.Fatalf("after requeue: %s", r.out)
		}
		want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "20s", "--ack", "reject")
		want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "20s", "--prefetch", "1")
		if r := want(t, 0, "", "purge", "-u", u, q); r.out != q+"\t1\n" {
			t.Errorf("purge said %q", r.out)
		}
	})
}

func TestQueuesLists(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "", "publish", "-u", u, "-q", q, "-n", "4", "true")
		// RabbitMQ's management counts with a delay.
		for end := time.Now().Add(30 * time.Second); ; {
			r := want(t, 0, "", "queues", "-u", u, "--json")
			for _, l := range r.lines() {
				if strings.Contains(l, `"`+q+`"`) && strings.Contains(l, `"ready":4`) {
					if r := want(t, 0, "", "queues", "-u", u); !strings.Contains(r.out, q) || !strings.Contains(r.out, "READY") {
						t.Errorf("table: %s", r.out)
					}
					return
				}
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not listed with 4 ready:\n%s", q, r.out)
			}
		}
	})
}

func TestUndecodableIsShown(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "", "publish", "-u", u, "-q", q, "-s", "text", "no json")
		r := want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "20s", "--accept", "json", "--ack", "requeue")
		if !strings.Contains(r.out, `"body_base64":"bm8ganNvbg=="`) || !strings.Contains(r.out, "not accepted") {
			t.Errorf("%s", r.out)
		}
		r = want(t, 0, "", "consume", "-u", u, "-q", q, "-n", "1", "--timeout", "20s", "--format", "raw")
		if r.out != "no json\n" {
			t.Errorf("%q", r.out)
		}
	})
}

func TestSignalGivesBack(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "", "publish", "-u", u, "-q", q, "-n", "3", "1")
		ctx, cancel := context.WithCancel(t.Context())
		var out writeHook
		out.f = func() { cancel() } // as a signal does, after the first line
		var errs bytes.Buffer
		if code := run(ctx, []string{"consume", "-u", u, "-q", q, "-n", "3", "--ack", "requeue"}, nil, &out, &errs); code != 4 && code != 0 {
			t.Fatalf("exit %d: %s", code, errs.String())
		}
		if r := want(t, 0, "", "queues", "-u", u, "--json", q); !strings.Contains(r.out, `"ready":3`) {
			t.Errorf("not given back: %s", r.out)
		}
	})
}

type writeHook struct {
	bytes.Buffer
	f func()
}

func (w *writeHook) Write(p []byte) (int, error) {
	defer w.f()
	return w.Buffer.Write(p)
}

// A line that cannot be written is a message that is not acked.
func TestMessageIsKeptWhenItsLineIsNotWritten(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("q")
		want(t, 0, "", "publish", "-u", u, "-q", q, "1")
		var errs bytes.Buffer
		if code := run(t.Context(), []string{"consume", "-u", u, "-q", q, "-n", "1"}, nil, broken{}, &errs); code != 1 {
			t.Fatalf("exit %d: %s", code, errs.String())
		}
		if r := want(t, 0, "", "queues", "-u", u, "--json", q); !strings.Contains(r.out, `"ready":1`) {
			t.Errorf("lost: %s", r.out)
		}
	})
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestDemo(t *testing.T) {
	r := want(t, 0, "", "demo", "--messages", "5000")
	for _, part := range []string{"published  5000", "consumed   5000", "lost 0", "duplicated 0", "messages/s"} {
		if !strings.Contains(r.out, part) {
			t.Errorf("no %q in %s", part, r.out)
		}
	}
	// Next to messages of somebody else it refuses, and leaves them alone.
	want(t, 0, "", "publish", "-u", "memory://", "-q", "video", "1")
	if r := want(t, 1, "", "demo"); !strings.Contains(r.err, "purge video") {
		t.Errorf("said %s", r.err)
	}
	want(t, 0, "", "purge", "-u", "memory://", "video")
}

func TestBadUsage(t *testing.T) {
	m := "memory://bad"
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"publish", "-q", "q", "1"}, "GOMBU_URL"},
		{[]string{"consume", "-q", "q"}, "GOMBU_URL"},
		{[]string{"queues"}, "GOMBU_URL"},
		{[]string{"publish", "-u", "ampq://h", "-q", "q", "1"}, `"amqp"`},
		{[]string{"publish", "-u", "amqp://h?hartbeat=1", "-q", "q", "1"}, `"heartbeat"`},
		{[]string{"publish", "-u", "amqp://h:99999", "-q", "q", "1"}, "bad port"},
		{[]string{"publish", "-u", "redis://h/x", "-q", "q", "1"}, "x"},
		{[]string{"publish", "-u", m, "-q", "q", "{nonsense"}, "not JSON"},
		{[]string{"publish", "-u", m, "-q", "q"}, "nothing to publish"},
		{[]string{"publish", "-u", m, "1"}, "nowhere"},
		{[]string{"publish", "-u", m, "-q", "q", "-s", "jsn", "1"}, "jsn"},
		{[]string{"publish", "-u", m, "-q", "q", "--compression", "lz", "1"}, "lz"},
		{[]string{"publish", "-u", m, "-q", "q", "-H", "novalue", "1"}, "KEY=VALUE"},
		{[]string{"publish", "-u", m, "-q", "q", "--priority", "256", "1"}, "0 to 255"},
		{[]string{"publish", "-u", m, "-e", "e", "--type", "tpoic", "-k", "k", "1"}, "tpoic"},
		{[]string{"publish", "-u", m, "-q", "q", "-f", "/no/such/file"}, "/no/such/file"},
		{[]string{"consume", "-u", m}, "no queue"},
		{[]string{"consume", "-u", m, "-q", "q", "--ack", "maybe"}, "maybe"},
		{[]string{"consume", "-u", m, "-q", "q", "--format", "xml"}, "xml"},
		{[]string{"consume", "-u", m, "-q", "q", "--accept", "jsn"}, `"json"`},
		{[]string{"declare", "-u", m}, "nothing named"},
		{[]string{"purge", "-u", m}, "arg"},
		{[]string{"frobnicate"}, "unknown command"},
		{[]string{"publish", "--no-such-flag"}, "no-such-flag"},
		{[]string{"demo", "--messages", "0"}, "at least 1"},
	} {
		r := call(t, "", c.args...)
		if r.code != 2 || !strings.Contains(r.err, c.says) {
			t.Errorf("gombu %s: exit %d, said %s; want 2 and %q", strings.Join(c.args, " "), r.code, r.err, c.says)
		}
	}
}

func TestNoBroker(t *testing.T) {
	r := call(t, "", "queues", "-u", "amqp://guest:sesame@127.0.0.1:1/")
	if r.code != 1 || strings.Contains(r.err, "sesame") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}

func TestHelpHasExamples(t *testing.T) {
	for _, c := range []string{"demo", "publish", "consume", "declare", "delete", "purge", "queues"} {
		if r := want(t, 0, "", c, "--help"); !strings.Contains(r.out, "Examples:") {
			t.Errorf("%s --help has no examples", c)
		}
	}
}
