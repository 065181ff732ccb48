-- Makes an owner's new connection known, which is a heartbeat too, and hangs
-- nothing on it when another process has taken over, or the keys are lost.
--
-- KEYS  1 alive, 2 owners
-- ARGV  1 owner, 2 the alive key's new value, 3 its TTL in ms
-- Returns 1, or 0 when the owner is fenced.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local t = redis.call('TIME')
redis.call('ZADD', KEYS[2], t[1] .. string.format('.%06d', t[2]), ARGV[1])
return 1
