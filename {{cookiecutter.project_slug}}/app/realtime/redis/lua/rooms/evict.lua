-- Removes a room's messages, and its position unless a node listens to the room. KEYS: messages,
-- position. ARGV: NUMSUB or SHARDNUMSUB, the channel.
redis.call('DEL', KEYS[1])
if redis.call('PUBSUB', ARGV[1], ARGV[2])[2] == 0 then redis.call('DEL', KEYS[2]) end
