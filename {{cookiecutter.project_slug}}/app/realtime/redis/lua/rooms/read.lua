-- Returns a room's position, whether all messages since another position are stored, and the
-- entries. Further ARGV: how long a position is stored if its epoch has no messages, in seconds, the
-- epoch and offset of the other position, and how many of the last messages to return instead.
local unused_s, since_epoch, since_offset = ARGV[4], ARGV[5], tonumber(ARGV[6])
local last = tonumber(ARGV[7])
trim(count, bytes)
save(offset == 0 and unused_s or position_s)
local missed = offset - since_offset
local is_whole = epoch == since_epoch and missed >= 0 and missed <= count
if last > 0 then missed, is_whole = math.min(last, count), true end
local entries = {}
if is_whole and missed > 0 then entries = redis.call('LRANGE', messages, -missed, -1) end
return {epoch, string.format('%.0f', offset), is_whole and 1 or 0, entries}
