//go:build !linux

package amqp

import "net"

// lean is for Linux.
func lean(c net.Conn) net.Conn { return c }
