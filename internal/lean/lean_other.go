//go:build !linux

// Package lean has sockets that cost less than those of package net.
package lean

import (
	"context"
	"net"
)

// Dial is that of a zero net.Dialer: only Linux has something leaner.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
