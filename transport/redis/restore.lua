-- Takes one overdue entry out of Kombu's unacked and puts its text at the
-- consume-next side of the lists it belongs to.
--
-- KEYS  1 unacked, 2 unacked_index, 3... lists
-- ARGV  1 claim id, 2 latest score that is overdue, 3 the text to push
-- Returns 1, or 0 when somebody else settled, renewed or restored it. An error
-- means that nothing was done: one of the lists is none.
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or tonumber(score) > tonumber(ARGV[2]) then return 0 end
for k = 3, #KEYS do redis.call('LLEN', KEYS[k]) end -- now it may fail: later the text would be lost
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
for k = 3, #KEYS do redis.call('RPUSH', KEYS[k], ARGV[3]) end
return 1
