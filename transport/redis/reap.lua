-- Gives claims of a fenced owner back to the list they came from, newest
-- first, so that the oldest is next. Several processes may do it side by side.
--
-- KEYS  1 alive, 2 ledger, 3 own list, 4 list, 5 unacked, 6 unacked_index
-- ARGV  1 owner, 2 list, 3 tombstone, 4 how many at most, 5 "1": count what
--       was given back as started once, for nobody knows whether it was,
--       6 how many positions to look at, for most may be settled
-- Returns how many are left, -1 when the owner lives. A mirrored claim whose
-- mirror is gone, entry and index, was taken by a Kombu peer and is not given
-- back; one of which only the mirror is left is made due for the sweep. An error
-- means that nothing was done: KEYS[4] is no list.
if redis.call('EXISTS', KEYS[1]) == 1 then return -1 end
redis.call('LLEN', KEYS[4]) -- now it may fail: later the text would be lost
local base = tonumber(redis.call('HGET', KEYS[2], 'b:' .. ARGV[2]) or 0)
local mark = tonumber(redis.call('HGET', KEYS[2], 'm:' .. ARGV[2]) or 0)
local left, room = redis.call('LLEN', KEYS[3]), tonumber(ARGV[4])
for pos = base + left + 1, math.min(mark, base + left + 10000) do
  redis.call('ZADD', KEYS[6], 'XX', 0, ARGV[1] .. ':' .. ARGV[2] .. ':' .. string.format('%.0f', pos))
end
local function give(text, pos)
  local ours = text ~= ARGV[3]
  if pos <= mark then
    local id = ARGV[1] .. ':' .. ARGV[2] .. ':' .. string.format('%.0f', pos)
    local indexed = redis.call('ZREM', KEYS[6], id) == 1
    ours = (redis.call('HDEL', KEYS[5], id) == 1 or indexed) and ours
  end
  if ours then
    if ARGV[5] == '1' and string.find(text, '^{%s*"') and string.sub(text, 1, 12) ~= '{"gombu-try"' then
      text = '{"gombu-try": 1, ' .. string.sub(text, 2)
    end
    redis.call('RPUSH', KEYS[4], text)
    room = room - 1
  end
end
for _ = 1, math.min(left, tonumber(ARGV[6])) do
  if room == 0 then break end
  give(redis.call('LPOP', KEYS[3]), base + left)
  left = left - 1
end
local aside = {} -- all of them older than what is in the own list
for _, field in ipairs(redis.call('HKEYS', KEYS[2])) do
  local pos, list = string.match(field, '^p:(%d+):(.*)$')
  if list == ARGV[2] then aside[#aside + 1] = tonumber(pos) end
end
table.sort(aside)
while left == 0 and room > 0 and #aside > 0 do
  local pos = table.remove(aside)
  local field = 'p:' .. string.format('%.0f', pos) .. ':' .. ARGV[2]
  local text = redis.call('HGET', KEYS[2], field)
  redis.call('HDEL', KEYS[2], field)
  give(text, pos)
end
-- A paused owner may still claim into this list before it learns: those
-- positions are new ones, not mirrored ones that Python took.
if mark > base + left then redis.call('HSET', KEYS[2], 'm:' .. ARGV[2], string.format('%.0f', base + left)) end
return left + #aside
