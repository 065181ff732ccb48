package redis

import (
	"strings"
	"testing"

	"github.com/redis/rueidis"
)

// mutantSeeds is in how many seeds a mutant must be found.
const mutantSeeds = 200

// Each rule of the protocol is needed: without it the model finds a fault.
func TestModelCatchesMutants(tt *testing.T) {
	dbs := modelServer(tt)
	for _, m := range []struct {
		name, text, old, new string
		script               **rueidis.Lua
		first                uint64 // where to begin, for those that are rarely seen
	}{
		{"settle where the mirror does not decide", settleLua, "ours = false\n", "", &settleScript, 0},
		{"settle that forgets the mirror", settleLua, "if ours and pos <= mark then", "if false then", &settleScript, 0},
		{"settle that forgets what was taken", settleLua, "redis.call('HSET', KEYS[2], 'x' .. name, '')", "", &settleScript, 0},
		{"settle that does again what was done", settleLua, "ours = text ~= ARGV[3]", "ours = true", &settleScript, 0},
		{"settle that loses what it should set aside", settleLua, "redis.call('HSET', KEYS[2], 'p:' .. string.format('%.0f', base + 1) .. ':' .. ARGV[2], text)", "", &settleScript, 0},
		{"settle that keeps what was set aside", settleLua, "if aside then redis.call('HDEL', KEYS[2], 'p' .. name) end", "", &settleScript, 0},
		{"a run with an older claim behind it", settleLua, "pos - key == base and ", "", &settleScript, 0},
		{"a run of mirrored claims", settleLua, " and base >= mark then", " then", &settleScript, 0},
		{"a run that counts wrong", settleLua, "for p = pos, pos - key + 1, -1", "for p = pos, pos - key + 2, -1", &settleScript, 0},
		{"acks that keep what they count by", ackLua, "redis.call('HSET', KEYS[2], unpack(bases))", "", &ackScript, 0},
		{"acks where an older claim is open", ackLua, "top - n == base and ", "", &ackScript, 0},
		{"acks that trim one more", ackLua, "0, -1 - ARGV", "0, -2 - ARGV", &ackScript, 0},
		{"reap where the mirror does not decide", reapLua, "ours = (redis.call('HDEL', KEYS[5], id) == 1 or indexed) and ours", "redis.call('HDEL', KEYS[5], id)", &reapScript, 0},
		{"reap that leaves the mark", reapLua, "if mark > base + left then", "if false then", &reapScript, 0},
		{"reap of settled claims", reapLua, "local ours = text ~= ARGV[3]", "local ours = true", &reapScript, 0},
		{"reap that forgets what was set aside", reapLua, "if list == ARGV[2] then", "if false then", &reapScript, 0},
		{"mirror that leaves the mark", tickLua, "if upto > mark then", "if false then", &tickScript, 0},
		{"mirror that forgets what was set aside", tickLua, "or redis.call('HGET', KEYS[3], 'p:' .. ARGV[i] .. ':' .. list)", "", &tickScript, 0},
		{"forget with claims left", forgetLua, "if redis.call('EXISTS', KEYS[k]) == 1 then return 0 end", "", &forgetScript, 0},
		{"forget with claims set aside", forgetLua, "if string.sub(field, 1, 2) == 'p:' then return 0 end", "", &forgetScript, 0},
		{"begin that leaves the mirror", beginLua, "if entry and entry ~= '' then", "if false then", &beginScript, 0},
		{"begin that leaves the claim", beginLua, "redis.call('LSET', KEYS[3], base - pos, counted)", "", &beginScript, 0},
		{"begin where the mirror does not decide", beginLua, "ours = entry ~= false", "", &beginScript, 0},
		{"a look that finds no strays", straysLua, "if text ~= ARGV[2] then", "if false then", &straysScript, 0},
		{"a look that takes settled claims for strays", straysLua, "base + n - from - i + 1", "base + n - from - i", &straysScript, 0},
		{"a connection that revives a fenced owner", resumeLua, "if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end", "", &resumeScript, 0},
	} {
		mutant := strings.Replace(m.text, m.old, m.new, 1)
		if mutant == m.text {
			tt.Fatalf("%s: the script has no %q", m.name, m.old)
		}
		func() {
			original := *m.script
			*m.script = rueidis.NewLuaScript(mutant)
			defer func() { *m.script = original }()
			for seed := range mutantSeeds {
				if err := runModel(dbs, m.first+uint64(seed)); err != nil {
					tt.Logf("%s: seed %d: %v", m.name, m.first+uint64(seed), err)
					return
				}
			}
			tt.Errorf("%s: not caught", m.name)
		}()
	}
}
