-- Renews a position; returns 0 if it is lost. KEYS: position. ARGV: how long it is stored if its
-- epoch has no messages, and if it has some, in seconds.
--
-- The offset in Redis decides, since the node may not have received a message yet.
local offset = redis.call('HGET', KEYS[1], 'offset')
if not offset then return 0 end
return redis.call('EXPIRE', KEYS[1], offset == '0' and ARGV[1] or ARGV[2])
