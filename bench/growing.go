package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gombu/gombu/bench/growth"
)

const growthFile = "growth.jsonl"

// grow measures what Gombu costs as things become many, and keeps the rows in
// place of those of the last time.
func grow(ctx context.Context, o *options, log io.Writer) (err error) {
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(o.results, growthFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := growth.Long()
	if o.smoke {
		c = growth.Quick()
	}
	lines := json.NewEncoder(f)
	return growth.Run(ctx, c, func(r growth.Row) error {
		fmt.Fprintf(log, "  %s, %s at %s: %.2f %s %s\n", r.Broker, r.Table, r.At, r.Value, r.Unit, r.Note)
		return lines.Encode(r)
	})
}

// writeGrowth writes the rows that there are.
func writeGrowth(b *strings.Builder, dir string) error {
	f, err := os.Open(filepath.Join(dir, growthFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	var rows []growth.Row
	for lines := json.NewDecoder(f); ; {
		var r growth.Row
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", growthFile, err)
		}
		rows = append(rows, r)
	}
	b.WriteString("\n## Growth\n")
	growth.Table(b, rows)
	return nil
}
