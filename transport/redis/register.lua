-- Makes an owner known, once and for ever: an id that was used before could
-- settle the claims of its predecessor by shifted positions.
--
-- KEYS  1 alive, 2 owners, 3 ledger
-- ARGV  1 owner, 2 the alive key's value, 3 its TTL in ms
-- Returns 1, or 0 when there are traces of this id.
if redis.call('EXISTS', KEYS[1], KEYS[3]) > 0 or redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local t = redis.call('TIME')
redis.call('ZADD', KEYS[2], t[1] .. string.format('.%06d', t[2]), ARGV[1])
return 1
