//go:build race

package interop

// poolDrops: under the race detector sync.Pool drops a part of what it gets.
const poolDrops = 1
