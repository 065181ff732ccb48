package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/internal/proc"
)

const (
	notRedis  = "RabbitMQ has it"
	notRabbit = "Redis has it"
	alarms    = "alarms are RabbitMQ's"
)

var serverFaults = []fault{
	{name: "client-kill", does: "CLIENT KILL of every connection", on: []string{redis}, instead: "CLIENT KILL is Redis's; force-close is RabbitMQ's", inject: clientKill},
	{name: "force-close", does: "the management API closes every connection", needs: needManagement, on: []string{rabbitmq}, instead: "the management API is RabbitMQ's; client-kill is Redis's", inject: forceClose},
	{
		name: "delete-queue", does: "the queue, empty, is deleted and declared again; on RabbitMQ the broker cancels its consumers",
		on: Kinds, quiet: true, inject: deleteQueue,
	},
	{
		name: "memory-alarm", does: "set_vm_memory_high_watermark: publishers are blocked for --for", needs: needCtl, on: []string{rabbitmq}, instead: alarms,
		inject: alarm("memory alarm", "vm_memory_monitor:%s_vm_memory_high_watermark", "set_vm_memory_high_watermark", "0.000001"),
	},
	{
		name: "disk-alarm", does: "set_disk_free_limit: publishers are blocked for --for", needs: needCtl, on: []string{rabbitmq}, instead: alarms,
		inject: alarm("disk alarm", "rabbit_disk_monitor:%s_disk_free_limit", "set_disk_free_limit", "1000000GB"),
	},
	{
		name: "full-disk", does: "prlimit --fsize: the broker cannot write its log for --for", needs: needPid | needStart, on: []string{redis},
		instead: "a private one is stopped by its own disk alarm before the disk is full", inject: fullDisk,
	},
}

// clientKill kills the actors' connections alone, by their name; of a private
// server all, since Kombu's have none.
func clientKill(ctx context.Context, r *run) error {
	opt, err := rueidis.ParseURL(r.broker.URL())
	if err != nil {
		return err
	}
	opt.ForceSingleClient, opt.DisableCache = true, true
	c, err := rueidis.NewClient(opt)
	if err != nil {
		return err
	}
	defer c.Close()
	own, err := c.Do(ctx, c.B().ClientId().Build()).AsInt64()
	if err != nil {
		return err
	}
	var ids []int64
	err = r.until(ctx, "a connection", func() bool {
		ids = r.clients(ctx, c, own)
		return len(ids) > 0
	})
	if err != nil {
		return err
	}
	f := r.led.Mark("CLIENT KILL")
	for _, id := range ids { // one that is gone already is gone
		_ = c.Do(ctx, c.B().ClientKill().Id(id).Build()).Error()
	}
	f.Over()
	return nil
}

// clients are the actors' connections: of a private server all but ours.
func (r *run) clients(ctx context.Context, c rueidis.Client, own int64) (ids []int64) {
	_, private, _ := kindOf(r.cfg.URL)
	list, err := c.Do(ctx, c.B().ClientList().Build()).ToString()
	if err != nil {
		return nil
	}
	for line := range strings.SplitSeq(strings.TrimSpace(list), "\n") {
		var id int64
		ours := private
		for field := range strings.FieldsSeq(line) {
			k, v, _ := strings.Cut(field, "=")
			switch k {
			case "id":
				id, _ = strconv.ParseInt(v, 10, 64)
			case "name":
				ours = ours || v == r.name
			}
		}
		if ours && id != own {
			ids = append(ids, id)
		}
	}
	return ids
}

// forceClose closes the actors' connections as an operator does in the browser.
func forceClose(ctx context.Context, r *run) error {
	_, private, _ := kindOf(r.cfg.URL)
	var names []string
	err := r.until(ctx, "the management API to know the connections", func() bool {
		names = r.connections(ctx, private)
		return len(names) >= len(r.consumers) // its statistics are some seconds behind
	})
	if err != nil {
		return err
	}
	f := r.led.Mark("force-close")
	for _, name := range names {
		if err := r.manage(ctx, http.MethodDelete, "/api/connections/"+url.PathEscape(name), nil); err != nil {
			return err
		}
	}
	f.Over()
	return nil
}

// connections are the names of the actors' connections that the API knows.
func (r *run) connections(ctx context.Context, all bool) (names []string) {
	var list []struct {
		Name       string
		Properties struct {
			Name string `json:"connection_name"`
		} `json:"client_properties"`
	}
	if r.manage(ctx, http.MethodGet, "/api/connections", &list) != nil {
		return nil
	}
	for _, c := range list {
		if all && c.Properties.Name != r.name+adminSuffix || c.Properties.Name == r.name {
			names = append(names, c.Name)
		}
	}
	return names
}

// manage calls the management API.
func (r *run) manage(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(r.broker.Management(), "/")+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	if resp.StatusCode >= 400 && resp.StatusCode != http.StatusNotFound {
		return fmt.Errorf("the management API answers %s", resp.Status)
	}
	if answer == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// deleteQueue: nothing is in the queue, so nothing is gone with it.
func deleteQueue(ctx context.Context, r *run) error {
	f := r.led.Mark("the queue is deleted")
	if err := r.admin.Delete(ctx, r.topology(), nil); err != nil {
		return err
	}
	pause(ctx, time.Duration(r.dice.IntN(1000))*time.Millisecond)
	err := r.declare(ctx)
	f.Over()
	return err
}

// alarm makes an alarm and puts the former limit back.
func alarm(name, functions, set, limit string) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		before, err := r.broker.Ctl(ctx, "eval", fmt.Sprintf(functions, "get")+"().")
		if err != nil {
			return err
		}
		f := r.led.Mark(fmt.Sprintf("%s for %v", name, r.cfg.For))
		if _, err := r.broker.Ctl(ctx, set, limit); err != nil {
			return err
		}
		pause(ctx, r.cfg.For)
		_, err = r.broker.Ctl(context.WithoutCancel(ctx), "eval", fmt.Sprintf("%s(%s).", fmt.Sprintf(functions, "set"), strings.TrimSpace(before)))
		f.Over()
		return err
	}
}

// fullDisk lets the broker's files grow no more. A Redis that writes every
// command before it answers ends itself then, and is started again when there
// is room.
func fullDisk(ctx context.Context, r *run) error {
	pid := r.broker.Pid()
	size, err := largestFile(pid)
	if err != nil {
		return err
	}
	size += int64(r.dice.IntN(4096)) // somewhere in the middle of a command
	f := r.led.Mark(fmt.Sprintf("full disk for %v", r.cfg.For))
	if err := limitFiles(ctx, pid, strconv.FormatInt(size, 10)); err != nil {
		return err
	}
	pause(ctx, r.cfg.For)
	if proc.Alive(pid) {
		err := limitFiles(ctx, pid, "unlimited")
		f.Over()
		return err
	}
	r.logf("the broker has ended itself")
	return r.startAgain(ctx, f)
}

func limitFiles(ctx context.Context, pid int, size string) error {
	out, err := exec.CommandContext(ctx, "prlimit", "--pid", strconv.Itoa(pid), "--fsize="+size+":").CombinedOutput()
	if err != nil {
		return fmt.Errorf("prlimit: %w: %s", err, out)
	}
	return nil
}

// largestFile is the size of the largest file that a process has open.
func largestFile(pid int) (size int64, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	open, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range open {
		if info, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && info.Mode().IsRegular() {
			size = max(size, info.Size())
		}
	}
	if size == 0 {
		return 0, errors.New("the broker has no file open that a full disk could hurt")
	}
	return size, nil
}
