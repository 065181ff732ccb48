-- Ends claims of one own list.
--
-- KEYS  1 alive, 2 ledger, 3 own list, 4 unacked, 5 unacked_index,
--       6... lists to push to
-- ARGV  1 owner, 2 list, 3 tombstone, 4 how many settled positions to trim at
--       most, for they may be many; then for each claim, newest first:
--       position, what, key, n, then n times: key, text
--       what  drop: forget it; head: back to KEYS[key] where it came from, to
--             be next; tried: so, and it was started, at least once; move: to
--             KEYS[key]
--       The n texts are pushed in the same step.
-- Returns -1 when another process has taken over (nothing was done), else for
-- each claim 1, or 0 when it is no longer ours (nothing was done for it). A
-- claim that is mirrored is ours while its mirror stands. An error means that
-- nothing was done: one of the lists is none.
local base = redis.call('HGET', KEYS[2], 'b:' .. ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 or not base then return -1 end
for k = 6, #KEYS do redis.call('LLEN', KEYS[k]) end -- now it may fail: later the text would be lost
base = tonumber(base)
local mark = tonumber(redis.call('HGET', KEYS[2], 'm:' .. ARGV[2]) or 0)
local top, out, a = base + redis.call('LLEN', KEYS[3]), {}, 5
while a <= #ARGV do
  local pos, what, n = tonumber(ARGV[a]), ARGV[a + 1], tonumber(ARGV[a + 3])
  local there, ours, text = pos > base and pos <= top
  if there then
    ours = true
    if what ~= 'drop' or n > 0 then
      text = redis.call('LINDEX', KEYS[3], base - pos)
      ours = text ~= ARGV[3]
    end
    if ours and pos <= mark then
      local id = ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[a]
      redis.call('ZREM', KEYS[5], id)
      ours = redis.call('HDEL', KEYS[4], id) == 1
    end
    redis.call('LSET', KEYS[3], base - pos, ARGV[3])
  end
  if ours then
    if what == 'tried' and string.find(text, '^{%s*"') and string.sub(text, 1, 12) ~= '{"gombu-try"' then
      text = '{"gombu-try": 1, ' .. string.sub(text, 2)
    end
    if what == 'head' or what == 'tried' then redis.call('RPUSH', KEYS[tonumber(ARGV[a + 2])], text) end
    if what == 'move' then redis.call('LPUSH', KEYS[tonumber(ARGV[a + 2])], text) end
    for i = a + 4, a + 3 + 2 * n, 2 do redis.call('LPUSH', KEYS[tonumber(ARGV[i])], ARGV[i + 1]) end
  end
  out[#out + 1] = ours and 1 or 0
  a = a + 4 + 2 * n
end
for _ = 1, tonumber(ARGV[4]) do
  if redis.call('LINDEX', KEYS[3], -1) ~= ARGV[3] then break end
  redis.call('RPOP', KEYS[3])
  base = base + 1
end
redis.call('HSET', KEYS[2], 'b:' .. ARGV[2], base)
return out
