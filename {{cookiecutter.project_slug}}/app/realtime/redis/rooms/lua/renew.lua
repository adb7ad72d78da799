-- Keeps a position for longer; returns 0 if it is lost. KEYS: position. ARGV: for how many seconds,
-- without a message in its epoch and with one.
--
-- It decides by the offset in Redis: a node may not know yet that something was published.
local offset = redis.call('HGET', KEYS[1], 'offset')
if not offset then return 0 end
return redis.call('EXPIRE', KEYS[1], offset == '0' and ARGV[1] or ARGV[2])
