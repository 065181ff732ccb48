-- The heartbeat of a session, once a second while it has claims: says that it lives, copies claims into
-- Kombu's unacked (the mirror) and looks what there is to take over.
--
-- KEYS  1 alive, 2 owners, 3 ledger, 4 unacked, 5 unacked_index, 6... own lists
-- ARGV  1 owner, 2 TTL of the alive key in ms, 3 tombstone, 4 visibility
--       timeout in s, 5 after how many s of silence an owner is suspect,
--       6 "1": renew the TTL of owners and say whether this one is alone, which
--       is asked for rarely, 7 "1": count what is overdue,
--       then for each own list: list, queue as JSON, high-water mark, n, and n
--       times: position of an open claim, "1" when its text is an envelope. All
--       that are open between the old mark and the new are there: the positions
--       are not walked, for a million may have been settled meanwhile.
-- Returns -1 when another process has taken over (nothing was done) or the
-- ledger is lost, else {overdue entries of unacked (0 when they were not counted),
-- latest score that is overdue, whether there may be owners that owners does not
-- name: 1 it was lost, 2 it names this one alone; then suspects: owner, its last heartbeat, ...}.
-- A claim up to the mark whose text is no envelope gets an empty entry without
-- an index: Kombu's sweep, which it would stop, never sees it. A mirror that
-- has lost its entry, or its index, is put back: Kombu removes both at once.
if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 0 then return -1 end
local t = redis.call('TIME')
local now = t[1] .. string.format('.%06d', t[2])
local stray = redis.call('ZADD', KEYS[2], now, ARGV[1])
if stray == 1 or ARGV[6] == '1' then
  redis.call('PEXPIRE', KEYS[2], 2592000000)
  if stray == 0 and redis.call('ZCARD', KEYS[2]) == 1 then stray = 2 end
end
local a = 8
for k = 6, #KEYS do
  local list, upto, n = ARGV[a], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local base = tonumber(redis.call('HGET', KEYS[3], 'b:' .. list) or nil)
  if not base then return -1 end
  local mark = tonumber(redis.call('HGET', KEYS[3], 'm:' .. list) or 0)
  local id = ARGV[1] .. ':' .. list .. ':'
  for i = a + 4, a + 3 + 2 * n, 2 do
    local pos, good = tonumber(ARGV[i]), ARGV[i + 1] == '1'
    local there, indexed = false, false
    if pos <= mark then
      there = redis.call('HEXISTS', KEYS[4], id .. pos) == 1
      indexed = good and redis.call('ZSCORE', KEYS[5], id .. pos) and true
      if good and (there or indexed) then redis.call('ZADD', KEYS[5], now, id .. pos) end
    end
    if pos > mark or indexed and not there then
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
local out = { ARGV[7] == '1' and redis.call('ZCOUNT', KEYS[5], 0, due) or 0, due, stray }
for _, v in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], 0, string.format('%.6f', now - ARGV[5]), 'WITHSCORES', 'LIMIT', 0, 100)) do
  out[#out + 1] = v
end
return out
