-- Drops the oldest claims of own lists, where that is one step: they stand next
-- to each other and none is mirrored. Settled positions behind them go too, a few.
--
-- KEYS  1 alive, 2 ledger, 3... own lists
-- ARGV  1 tombstone, then for each own list: list, newest position, how many
-- Returns -1 when another process has taken over, else which own lists, counted
-- from 1, were left as they are: settle.lua is for those. An error means that
-- nothing was done.
if redis.call('EXISTS', KEYS[1]) == 0 then return -1 end
local fields = {}
for a = 2, #ARGV, 3 do
  fields[#fields + 1] = 'b:' .. ARGV[a]
  fields[#fields + 1] = 'm:' .. ARGV[a]
end
local known, left, trims = redis.call('HMGET', KEYS[2], unpack(fields)), {}, {}
for k = 3, #KEYS do
  local i = k - 2
  local base, mark = tonumber(known[2 * i - 1] or nil), tonumber(known[2 * i] or 0)
  local top, n = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  local there = base and top - n == base and base >= mark and redis.call('LLEN', KEYS[k]) or 0
  if n > there then left[#left + 1] = i else trims[#trims + 1] = { i, there - n } end
end
if #trims == 0 then return left end
local bases = {}
for _, trim in ipairs(trims) do
  local i, behind = trim[1], trim[2]
  local key, gone = KEYS[i + 2], 0
  redis.call('LTRIM', key, 0, -1 - ARGV[3 * i + 1])
  -- LINDEX would bring the text of an open claim here: Lua hashes all of it. A list
  -- that is gone is not asked: while its slot moves that is an error.
  while gone < math.min(64, behind) and redis.call('LPOS', key, ARGV[1], 'RANK', '-1', 'MAXLEN', '1') do
    redis.call('LTRIM', key, 0, -2)
    gone = gone + 1
  end
  bases[#bases + 1] = fields[2 * i - 1]
  bases[#bases + 1] = string.format('%.0f', tonumber(ARGV[3 * i]) + gone)
end
redis.call('HSET', KEYS[2], unpack(bases))
return left
