-- The one script a second of a session: says that it lives, copies claims into
-- Kombu's unacked (the mirror) and looks what there is to take over.
--
-- KEYS  1 alive, 2 owners, 3 ledger, 4 unacked, 5 unacked_index, 6... own lists
-- ARGV  1 owner, 2 TTL of the alive key in ms, 3 tombstone, 4 visibility
--       timeout in s, 5 after how many s of silence an owner is suspect,
--       then for each own list: list, queue as JSON, high-water mark, n, and n
--       times: position of an open claim, "1" when its text is an envelope. All
--       that are open between the old mark and the new are there: the positions
--       are not walked, for a million may have been settled meanwhile.
-- Returns -1 when another process has taken over (nothing was done), else
-- {overdue entries of unacked, latest score that is overdue, then suspects:
-- owner, its last heartbeat, ...}.
-- A claim up to the mark whose text is no envelope gets an empty entry without
-- an index: Kombu's sweep, which it would stop, never sees it.
if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 0 then return -1 end
local t = redis.call('TIME')
local now = t[1] .. string.format('.%06d', t[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
local a = 6
for k = 6, #KEYS do
  local list, upto, n = ARGV[a], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local base = tonumber(redis.call('HGET', KEYS[3], 'b:' .. list) or upto)
  local mark = tonumber(redis.call('HGET', KEYS[3], 'm:' .. list) or 0)
  local id = ARGV[1] .. ':' .. list .. ':'
  for i = a + 4, a + 3 + 2 * n, 2 do
    local pos, good = tonumber(ARGV[i]), ARGV[i + 1] == '1'
    if pos <= mark then
      if good then redis.call('ZADD', KEYS[5], 'XX', now, id .. pos) end
    else
      local text = pos > base and redis.call('LINDEX', KEYS[k], base - pos) or redis.call('HGET', KEYS[3], 'p:' .. ARGV[i] .. ':' .. list)
      if text and text ~= ARGV[3] then
        redis.call('HSET', KEYS[4], id .. pos, good and '[' .. text .. ', "", ' .. ARGV[a + 1] .. ']' or '')
        if good then redis.call('ZADD', KEYS[5], now, id .. pos) end
      end
    end
  end
  if upto > mark then redis.call('HSET', KEYS[3], 'm:' .. list, upto) end
  a = a + 4 + 2 * n
end
local due = string.format('%.6f', now - ARGV[4])
local out = { redis.call('ZCOUNT', KEYS[5], 0, due), due }
for _, v in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, string.format('%.6f', now - ARGV[5]), 'WITHSCORES', 'LIMIT', 0, 100)) do
  out[#out + 1] = v
end
return out
