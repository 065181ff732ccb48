package torture

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
)

// need is what a fault needs beside a URL.
type need uint8

const (
	needProxy need = 1 << iota
	needPid
	needStart
	needCtl
	needManagement
)

// A fault is one thing that goes wrong.
type fault struct {
	name, does string
	needs      need
	// on are the kinds of broker that can have it; instead says why the others
	// cannot.
	on      []string
	instead string
	// consuming faults strike when so much is handled, the others when it is sent.
	consuming bool
	// quiet faults strike when the queue is empty and nothing is claimed.
	quiet bool
	// orderly faults excuse no acknowledged message that is seen again.
	orderly bool
	inject  func(ctx context.Context, r *run) error
}

var (
	brokers    = []string{rabbitmq, redis}
	onlyMemory = []string{memory}
)

const (
	oneProcess = "producers, consumers and broker are one process, which would be gone"
	noLink     = "there is no link to break"
	hasProcess = "a fault inside a program; from outside a broker, kill-consumer and cut are their like"
)

// faults are all that can go wrong, in the order of the table.
var faults []fault

func init() { // faults speak of functions that speak of faults
	faults = slices.Concat(processFaults, brokerFaults, linkFaults, serverFaults, memoryFaults)
}

// not is why a fault cannot be had on a kind of broker; empty: it can.
func (f *fault) not(kind string) string {
	if slices.Contains(f.on, kind) {
		return ""
	}
	return f.instead
}

// FaultsOf are the names of the faults that a kind of broker can have.
func FaultsOf(kind string) (names []string) {
	for i := range faults {
		if faults[i].not(kind) == "" {
			names = append(names, faults[i].name)
		}
	}
	return names
}

// NotOn says why a kind of broker cannot have a fault; empty: it can.
func NotOn(name, kind string) string {
	for i := range faults {
		if faults[i].name == name {
			return faults[i].not(kind)
		}
	}
	return "there is no such fault"
}

// List writes what there is.
func List(w io.Writer) {
	for _, kind := range Kinds {
		fmt.Fprintf(w, "%s\n", kind)
		for i := range faults {
			f := &faults[i]
			if why := f.not(kind); why != "" {
				fmt.Fprintf(w, "  %-16s n/a: %s\n", f.name, why)
				continue
			}
			fmt.Fprintf(w, "  %-16s %s%s\n", f.name, f.does, flags(f.needs))
		}
	}
}

// flags are what a user's own broker has to be described by.
func flags(n need) string {
	var all []string
	for _, f := range []struct {
		need need
		flag string
	}{{needPid, "--broker-pid"}, {needStart, "--broker-start"}, {needCtl, "--rabbitmqctl"}, {needManagement, "--management"}} {
		if n&f.need != 0 {
			all = append(all, f.flag)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " [" + strings.Join(all, ", ") + "]"
}
