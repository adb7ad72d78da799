-- Numbers, stores and publishes messages; returns the epoch, the offset of the last one, the size of
-- the room's messages in bytes, and the user who began the epoch, or an empty string. Further ARGV:
-- the command that publishes, the channel, the limits of messages and bytes per room, how many
-- seconds an id is remembered, the envelopes.
--
-- A message that may be repeated has an id, and a third key, which stores the message's position: a
-- repetition only returns that.
local command, channel, id = ARGV[4], ARGV[5], KEYS[3]
local max_count, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
local published = id and redis.pcall('GET', id)
if type(published) == 'string' then
  local in_epoch, at_offset = string.match(published, '^([%w_-]+) (%d+)$')
  if at_offset then return {in_epoch, at_offset} end
end
if offset == 0 then owner = string.match(ARGV[9], '^{"sender":"(.-)","data":') or '' end
local lines = {}
for number = 9, #ARGV do
  offset = offset + 1
  local line = string.format('{"epoch":"%s","offset":%.0f,', epoch, offset)
    .. string.sub(ARGV[number], 2)
  if max_count > 0 then
    local entry = string.format('%.0f ', now_ms) .. line
    count = redis.call('RPUSH', messages, entry)
    bytes = bytes + size(entry)
  end
  lines[#lines + 1] = line
end
trim(max_count, max_bytes)
redis.call('PEXPIRE', messages, keep_ms)
save(position_s)
if id then redis.call('SET', id, string.format('%s %.0f', epoch, offset), 'EX', ARGV[8]) end
redis.call(command, channel, table.concat(lines, '\n'))
return {epoch, string.format('%.0f', offset), bytes, owner}
