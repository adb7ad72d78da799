-- Returns where the room stands, whether all since another position is kept, and the entries. ARGV
-- also: for how many seconds the position is kept, the epoch and offset of the other position, and
-- for how many seconds the position of a room is kept to which nothing was published.
local position_s, since_epoch, since_offset = ARGV[3], ARGV[4], tonumber(ARGV[5])
trim(count, bytes)
save(offset == 0 and ARGV[6] or position_s)
local missed = offset - since_offset
local whole = epoch == since_epoch and missed >= 0 and missed <= count
local entries = {}
if whole and missed > 0 then entries = redis.call('LRANGE', messages, -missed, -1) end
return {epoch, string.format('%.0f', offset), whole and 1 or 0, entries}
