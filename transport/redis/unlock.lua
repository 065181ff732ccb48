-- Releases Kombu's sweep lock if it is still ours.
--
-- KEYS  1 unacked_mutex
-- ARGV  1 our token
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
