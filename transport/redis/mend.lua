-- Puts bindings back whose whole set has vanished, but for those that a peer of
-- Gombu's took away on purpose.
--
-- KEYS  1 the exchange's bindings, 2 those taken away lately
-- ARGV  members
-- Returns how many were put back.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local n = 0
for _, m in ipairs(ARGV) do
  if redis.call('SISMEMBER', KEYS[2], m) == 0 then n = n + redis.call('SADD', KEYS[1], m) end
end
return n
