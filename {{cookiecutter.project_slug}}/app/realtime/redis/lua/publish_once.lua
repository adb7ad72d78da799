-- Publishes a message, unless one with its id was published; returns the number of subscribed nodes.
-- KEYS: the id. ARGV: the command that publishes, the channel, the message, how many seconds the id
-- is remembered.
local reached = redis.pcall('GET', KEYS[1])
if type(reached) == 'string' and tonumber(reached) then return tonumber(reached) end
redis.call('SET', KEYS[1], '', 'EX', ARGV[4])
reached = redis.call(ARGV[1], ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], reached, 'EX', ARGV[4])
return reached
