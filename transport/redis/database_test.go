package redis

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/redis/rueidis"
)

// These tests flush the database that they use. So that two runs on one server
// do not flush each other's, each takes one of a few under a lock, which lies
// in a database that nobody flushes and expires after the longest run.
const (
	lockDB  = 7
	firstDB = 9
	lastDB  = 15
	lockMS  = "1200000"
)

var database struct {
	once  sync.Once
	db    int
	addr  string
	token string
	err   error
}

func lockKey(db int) string { return fmt.Sprint("gombu-test-database-", db) }

// testDB is the database of this run.
func testDB(t testing.TB, addr string) int {
	t.Helper()
	d := &database
	d.once.Do(func() { d.addr, d.token = addr, rand.Text(); d.db, d.err = lockDatabase(addr, d.token) })
	if d.err != nil {
		t.Fatal(d.err)
	}
	return d.db
}

func withLocks(addr string, f func(do func(args ...string) error) error) error {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, SelectDB: lockDB, ForceSingleClient: true, DisableCache: true})
	if err != nil {
		return err
	}
	defer c.Close()
	return f(func(args ...string) error {
		return c.Do(context.Background(), c.B().Arbitrary(args...).Build()).Error()
	})
}

func lockDatabase(addr, token string) (db int, err error) {
	err = withLocks(addr, func(do func(args ...string) error) error {
		for db = firstDB; db <= lastDB; db++ {
			if err := do("SET", lockKey(db), token, "NX", "PX", lockMS); !rueidis.IsRedisNil(err) {
				return err
			}
		}
		return fmt.Errorf("databases %d to %d are all in use by other runs of these tests (keys gombu-test-database-* of database %d)", firstDB, lastDB, lockDB)
	})
	return db, err
}

func unlockDatabase() {
	if d := &database; d.err == nil && d.token != "" {
		_ = withLocks(d.addr, func(do func(args ...string) error) error {
			return do("EVAL", unlockLua, "1", lockKey(d.db), d.token)
		})
	}
}
