// Package simulation holds no code of its own: its tests run the shipped core
// over the shipped virtual engine with a store, a network and a clock that are
// not real, so that thousands of bad days pass in a minute.
//
// One run is one testing/synctest bubble. Its seed decides the workload, the
// faults, their moments and every latency; which of two goroutines that are
// ready goes first is the runtime's choice. What happens is held against what
// must be true of every broker: see (*world).judge. Known bugs are put in on
// purpose and must be found (TestBugsAreFound).
package simulation
