-- The first part of the scripts of history: reads a room's position, or begins an epoch. KEYS:
-- messages, position. ARGV: how long messages are stored in milliseconds, how long the position is
-- stored in seconds, the name of a new epoch.
--
-- The messages are a list of "<Unix milliseconds> <envelope>", the newest last.
local messages, position = KEYS[1], KEYS[2]
local keep_ms, position_s, new_epoch = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local origin = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
  .. string.match(redis.call('INFO', 'replication'), 'second_repl_offset:(%-?%d+)')
local stored = redis.pcall('HMGET', position, 'epoch', 'offset', 'bytes', 'origin', 'owner')
local count = redis.pcall('LLEN', messages)
local epoch, offset, bytes, epoch_origin, owner = unpack(stored)
offset, bytes, owner = tonumber(offset), tonumber(bytes), owner or ''
-- Anybody with access to Redis can write these keys. What no script can have written counts as lost.
if epoch_origin ~= origin or type(count) ~= 'number' or not string.find(epoch or '', '^[%w_-]+$')
  or #epoch > 64 or not offset or offset < 0 or offset >= 2^53 or offset % 1 ~= 0
  or not bytes or bytes < 0 or bytes >= 2^53 then
  for _, reply in ipairs({stored, count}) do
    local failure = type(reply) == 'table' and reply.err
    if failure and not string.find(failure, 'WRONGTYPE') then return {err = failure} end
  end
  -- No needless write: after its first one, Redis does not refuse a script for lack of memory.
  if epoch_origin ~= false or count ~= 0 then redis.call('DEL', messages, position) end
  epoch, offset, bytes, count = new_epoch, 0, 0, 0
end
if count == 0 then bytes = 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- An upper bound of the size of an entry's frame. The frame names the room, the entry does not.
local room = string.match(messages, '{room:(.*)}') or messages
local function size(entry)
  return #entry + #room
end

local function trim(max_count, max_bytes)
  while count > 0 do
    local oldest_ms = tonumber(string.match(redis.call('LINDEX', messages, 0), '^%d+') or 0)
    if count <= max_count and bytes <= max_bytes and oldest_ms > now_ms - keep_ms then break end
    bytes = bytes - size(redis.call('LPOP', messages))
    count = count - 1
  end
end

local function save(seconds)
  redis.call('HSET', position, 'epoch', epoch, 'offset', string.format('%.0f', offset),
    'bytes', string.format('%.0f', bytes), 'origin', origin, 'owner', owner)
  redis.call('EXPIRE', position, seconds)
end
