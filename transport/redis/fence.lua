-- Ends the liveness of an owner that was judged dead, unless it showed itself
-- in between. From here on it can settle nothing.
--
-- KEYS  1 alive, 2 owners
-- ARGV  1 owner, 2 the alive key's value and 3 the last heartbeat that were seen
-- Returns 1 when it is fenced, 0 when it lives.
local value = redis.call('GET', KEYS[1])
if value and (value ~= ARGV[2] or redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[3]) then return 0 end
redis.call('DEL', KEYS[1])
return 1
