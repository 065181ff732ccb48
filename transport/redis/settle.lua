-- Ends claims of one own list.
--
-- KEYS  1 alive, 2 ledger, 3 own list, 4 unacked, 5 unacked_index,
--       6... lists to push to
-- ARGV  1 owner, 2 list, 3 tombstone, 4 how many settled positions to trim at
--       most, for they may be many, 5 how long the own list may be before open
--       claims at its old end are set aside, then for each claim, newest first:
--       position, what, key, n, then n times: key, text
--       what  drop: forget it; head: back to KEYS[key] where it came from, to
--             be next; tried: so, and it was started, at least once; move: to
--             KEYS[key]; run: forget this one and those before it, key in all
--       The n texts are pushed in the same step.
-- Returns -1 when another process has taken over (nothing was done), else the
-- positions that are no longer ours (nothing was done for them). A
-- claim that is mirrored is ours while its mirror stands: the entry, or at least
-- its index, for who takes over removes both at once. One that was ended
-- before answers as it did then, and nothing is done again: the answer may have
-- been lost. An error means that nothing was done: one of the lists is none.
local at = redis.call('HMGET', KEYS[2], 'b:' .. ARGV[2], 'm:' .. ARGV[2])
local base = at[1]
if redis.call('EXISTS', KEYS[1]) == 0 or not base then return -1 end
for k = 6, #KEYS do redis.call('LLEN', KEYS[k]) end -- now it may fail: later the text would be lost
local began = base
base = tonumber(base)
local mark = tonumber(at[2] or 0)
local top, out = base + redis.call('LLEN', KEYS[3]), {}

-- One claim; its texts stand from ARGV[a] on.
local function settle(pos, what, key, n, a)
  local digits = string.format('%.0f', pos)
  local name = ':' .. digits .. ':' .. ARGV[2]
  local there = pos > base and pos <= top
  local aside = pos <= base and redis.call('HEXISTS', KEYS[2], 'p' .. name) == 1
  local ours, taken, text = there or aside, pos > top
  if aside then
    text = redis.call('HGET', KEYS[2], 'p' .. name)
  elseif there and (what ~= 'drop' or n > 0) then
    text = redis.call('LINDEX', KEYS[3], base - pos)
    ours = text ~= ARGV[3]
  end
  if ours and pos <= mark then
    local id = ARGV[1] .. ':' .. ARGV[2] .. ':' .. digits
    local indexed = redis.call('ZREM', KEYS[5], id)
    if redis.call('HDEL', KEYS[4], id) == 0 and indexed == 0 then
      ours = false
      if (text or redis.call('LINDEX', KEYS[3], base - pos)) ~= ARGV[3] then redis.call('HSET', KEYS[2], 'x' .. name, '') end
    end
  end
  if taken and pos <= mark then -- the own list was deleted; the mirror has the text
    local id = ARGV[1] .. ':' .. ARGV[2] .. ':' .. digits
    if what == 'drop' and n == 0 then
      redis.call('ZREM', KEYS[5], id)
      taken = redis.call('HDEL', KEYS[4], id) == 0
    else
      redis.call('ZADD', KEYS[5], 'XX', 0, id) -- the sweep restores it
    end
  end
  if there then redis.call('LSET', KEYS[3], base - pos, ARGV[3]) end
  if aside then redis.call('HDEL', KEYS[2], 'p' .. name) end
  if ours then
    if what == 'tried' and string.find(text, '^{%s*"') and string.sub(text, 1, 12) ~= '{"gombu-try"' then
      text = '{"gombu-try": 1, ' .. string.sub(text, 2)
    end
    if what == 'head' or what == 'tried' then redis.call('RPUSH', KEYS[key], text) end
    if what == 'move' then redis.call('LPUSH', KEYS[key], text) end
    for i = a, a - 1 + 2 * n, 2 do redis.call('LPUSH', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
  else
    taken = taken or redis.call('HEXISTS', KEYS[2], 'x' .. name) == 1
  end
  if taken then out[#out + 1] = pos end
end

local a = 6
while a <= #ARGV do
  local pos, what, key, n = tonumber(ARGV[a]), ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  if what ~= 'run' then
    settle(pos, what, key, n, a + 4)
  elseif pos - key == base and pos <= top and base >= mark then -- the oldest, and none is mirrored
    redis.call('LTRIM', KEYS[3], 0, -key - 1)
    base = pos
  else
    for p = pos, pos - key + 1, -1 do settle(p, 'drop', 0, 0, 0) end
  end
  a = a + 4 + 2 * n
end

local aside, gone, most = 16, 0, math.min(tonumber(ARGV[4]), top - base)
if top - base > tonumber(ARGV[5]) then
  for _ = 1, most do
    local text = redis.call('LINDEX', KEYS[3], -1 - gone)
    if text ~= ARGV[3] then
      if aside == 0 or top - base <= tonumber(ARGV[5]) then break end
      redis.call('HSET', KEYS[2], 'p:' .. string.format('%.0f', base + 1) .. ':' .. ARGV[2], text)
      aside = aside - 1
    end
    gone = gone + 1
    base = base + 1
  end
elseif most > 0 and redis.call('LPOS', KEYS[3], ARGV[3], 'RANK', '-1', 'MAXLEN', '1') then -- no text of an open claim is brought here
  for i, index in ipairs(redis.call('LPOS', KEYS[3], ARGV[3], 'RANK', '-1', 'COUNT', '0', 'MAXLEN', most)) do
    if index ~= top - base - i then break end
    gone = i
  end
  base = base + gone
end
if gone > 0 then redis.call('LTRIM', KEYS[3], 0, -gone - 1) end
local now = string.format('%.0f', base)
if now ~= began then redis.call('HSET', KEYS[2], 'b:' .. ARGV[2], now) end
return out
