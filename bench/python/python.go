// Package python runs the contenders that are written in Python, with Debian's
// packages of their libraries. They measure themselves as a Meter does.
package python

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// interpreter is Debian's, which has the libraries of Debian's packages.
const interpreter = "/usr/bin/python3"

var (
	//go:embed common.py
	common string
	//go:embed kombu_bench.py
	kombu string
	//go:embed pika_bench.py
	pika string
)

// Kombu does every work, on RabbitMQ, on Redis, and in memory when the job has
// no URL.
func Kombu() contender.Contender { return program("kombu", kombu) }

// Pika does every work on RabbitMQ.
func Pika() contender.Contender { return program("pika", pika) }

func program(name, text string) contender.Contender {
	return contender.Contender{Name: name, Run: func(ctx context.Context, job contender.Job, m *contender.Meter) error {
		in, err := json.Marshal(job)
		if err != nil {
			return err
		}
		c := exec.CommandContext(ctx, interpreter, "-c", common+text)
		var out, say bytes.Buffer
		c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &say
		c.WaitDelay = 5 * time.Second
		if err := c.Run(); err != nil {
			lines := strings.Split(strings.TrimSpace(say.String()), "\n")
			return fmt.Errorf("%s in Python (scripts/install has what it needs): %w: %s", name, err, lines[len(lines)-1])
		}
		var f contender.Figures
		if err := json.Unmarshal(out.Bytes(), &f); err != nil {
			return fmt.Errorf("%s in Python: %w: %s", name, err, out.Bytes())
		}
		m.Set(f)
		return nil
	}}
}
