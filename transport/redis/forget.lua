-- Removes the last traces of a fenced owner, unless something of its is left,
-- or it has claimed from one more list since its lists were looked up.
--
-- KEYS  1 alive, 2 owners, 3 ledger, 4... its own lists
-- ARGV  1 owner
-- Returns 1 when it is forgotten, else 0.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
for k = 4, #KEYS do
  if redis.call('EXISTS', KEYS[k]) == 1 then return 0 end
end
local lists = 0
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
  if string.sub(field, 1, 2) == 'p:' then return 0 end
  if string.sub(field, 1, 2) == 'b:' then lists = lists + 1 end
end
if lists > #KEYS - 3 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return 1
