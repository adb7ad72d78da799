-- Removes a room's messages, and its position unless a node listens to the room. Does nothing if the
-- stored position is another: a node has published meanwhile. KEYS: messages, position. ARGV:
-- NUMSUB or SHARDNUMSUB, the channel, the epoch and offset, or an empty epoch for any position.
local epoch, offset = unpack(redis.pcall('HMGET', KEYS[2], 'epoch', 'offset'))
if ARGV[3] ~= '' and epoch and (epoch ~= ARGV[3] or offset ~= ARGV[4]) then return end
redis.call('DEL', KEYS[1])
if redis.call('PUBSUB', ARGV[1], ARGV[2])[2] == 0 then redis.call('DEL', KEYS[2]) end
