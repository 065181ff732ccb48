//go:build !race

package interop

// poolDrops is how many allocations a message makes because sync.Pool drops
// what it gets: none without the race detector.
const poolDrops = 0
