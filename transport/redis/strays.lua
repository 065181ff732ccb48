-- Finds claims in one own list, so that its owner can tell which of them it
-- does not know: their answer was lost with the connection.
--
-- KEYS  1 ledger, 2 own list
-- ARGV  1 list, 2 tombstone, 3 how many of the newest to leave out, 4 how many
--       to look at
-- Returns the oldest position, the number of positions, then the positions that
-- hold a claim, in any order; those set aside with the first look.
local base = tonumber(redis.call('HGET', KEYS[1], 'b:' .. ARGV[1]) or 0)
local from, n = tonumber(ARGV[3]), redis.call('LLEN', KEYS[2])
local out = { base, n }
for i, text in ipairs(redis.call('LRANGE', KEYS[2], from, from + ARGV[4] - 1)) do
  if text ~= ARGV[2] then out[#out + 1] = base + n - from - i + 1 end
end
if from == 0 then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    local pos, list = string.match(field, '^p:(%d+):(.*)$')
    if list == ARGV[1] then out[#out + 1] = tonumber(pos) end
  end
end
return out
