-- Renews a position; returns 0 if it is lost. KEYS: position. ARGV: for how many seconds it is kept
-- without messages in its epoch, and with messages.
--
-- The offset in Redis decides: the node may not know yet that a message was published.
local offset = redis.call('HGET', KEYS[1], 'offset')
if not offset then return 0 end
return redis.call('EXPIRE', KEYS[1], offset == '0' and ARGV[1] or ARGV[2])
