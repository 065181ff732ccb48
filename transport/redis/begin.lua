-- Counts handler starts before they happen, in the texts of one own list and
-- in their mirrors, so that the count survives whoever restores them.
--
-- KEYS  1 alive, 2 ledger, 3 own list, 4 unacked, 5 unacked_index
-- ARGV  1 owner, 2 list, 3 tombstone, then for each claim: position, how many
--       starts it has had with this one
-- Returns -1 when another process has taken over (nothing was done), else for
-- each claim 1, or 0 when it is no longer ours: it is settled, or mirrored and
-- its mirror is gone, entry and index. A count never falls, so that a repeat does no harm.
local base = redis.call('HGET', KEYS[2], 'b:' .. ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 or not base then return -1 end
base = tonumber(base)
local mark = tonumber(redis.call('HGET', KEYS[2], 'm:' .. ARGV[2]) or 0)
local top, out = base + redis.call('LLEN', KEYS[3]), {}
for a = 4, #ARGV, 2 do
  local pos, starts = tonumber(ARGV[a]), tonumber(ARGV[a + 1])
  local aside = pos <= base and 'p:' .. ARGV[a] .. ':' .. ARGV[2]
  local text
  if aside then
    text = redis.call('HGET', KEYS[2], aside)
  elseif pos <= top then
    text = redis.call('LINDEX', KEYS[3], base - pos)
  end
  local ours, id, entry = text and text ~= ARGV[3], ARGV[1] .. ':' .. ARGV[2] .. ':' .. ARGV[a]
  if ours and pos <= mark then
    entry = redis.call('HGET', KEYS[4], id)
    ours = entry ~= false or redis.call('ZSCORE', KEYS[5], id) ~= false
  end
  if ours and string.find(text, '^{%s*"') then
    local tries, rest = string.match(text, '^{"gombu%-try": (%d+)(.*)$')
    if starts > tonumber(tries or 0) then
      local counted = '{"gombu-try": ' .. starts .. (rest or ', ' .. string.sub(text, 2))
      if aside then
        redis.call('HSET', KEYS[2], aside, counted)
      else
        redis.call('LSET', KEYS[3], base - pos, counted)
      end
      if entry and entry ~= '' then -- [text, "", queue]
        redis.call('HSET', KEYS[4], id, '[' .. counted .. string.sub(entry, #text + 2))
      end
    end
  end
  out[#out + 1] = ours and 1 or 0
end
return out
