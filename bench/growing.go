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

// grow measures what Gombu costs as things become many, in the tables that were
// asked for, and keeps the rows in place of those of the last time.
func grow(ctx context.Context, o *options, log io.Writer) (err error) {
	if err := os.MkdirAll(o.results, 0o755); err != nil {
		return err
	}
	before, err := readGrowth(o.results)
	if err != nil {
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
	c.Only = func(broker, table string) bool { return o.suite.MatchString(broker + ": " + table) }
	lines := json.NewEncoder(f)
	for _, r := range before {
		if !c.Only(r.Broker, r.Table) {
			if err := lines.Encode(r); err != nil {
				return err
			}
		}
	}
	return growth.Run(ctx, c, func(r growth.Row) error {
		fmt.Fprintf(log, "  %s, %s at %s: %.2f %s %s\n", r.Broker, r.Table, r.At, r.Value, r.Unit, r.Note)
		return lines.Encode(r)
	})
}

// readGrowth reads the rows that there are.
func readGrowth(dir string) (rows []growth.Row, err error) {
	f, err := os.Open(filepath.Join(dir, growthFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	for lines := json.NewDecoder(f); ; {
		var r growth.Row
		if err := lines.Decode(&r); errors.Is(err, io.EOF) {
			return rows, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", growthFile, err)
		}
		rows = append(rows, r)
	}
}

// writeGrowth writes the rows that there are.
func writeGrowth(b *strings.Builder, dir string) error {
	rows, err := readGrowth(dir)
	if err != nil || len(rows) == 0 {
		return err
	}
	b.WriteString("\n## Growth\n")
	growth.Table(b, rows)
	return nil
}
