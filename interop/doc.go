// Package interop holds the tests of gombu against an unmodified Python Kombu
// (Debian's python3-kombu, run by /usr/bin/python3), on RabbitMQ and on Redis.
package interop
