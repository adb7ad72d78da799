-- The first part of the scripts of history: reads a room's position, or begins an epoch. KEYS:
-- messages, position. ARGV: how long messages are stored in milliseconds, how long the position is
-- stored in seconds, the name of a new epoch.
--
-- The messages are a list of "<Unix milliseconds> <envelope>", the newest last.
local messages, position = KEYS[1], KEYS[2]
local keep_ms, position_s, new_epoch = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local epoch, offset, bytes, owner =
  unpack(redis.call('HMGET', position, 'epoch', 'offset', 'bytes', 'run'))
if not epoch or owner ~= run then
  redis.call('DEL', messages)
  epoch, offset, bytes = new_epoch, 0, 0
end
offset, bytes = tonumber(offset), tonumber(bytes)
local count = redis.call('LLEN', messages)
if count == 0 then bytes = 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function trim(max_count, max_bytes)
  while count > 0 do
    local oldest_ms = tonumber(string.match(redis.call('LINDEX', messages, 0), '^%d+'))
    if count <= max_count and bytes <= max_bytes and oldest_ms > now_ms - keep_ms then break end
    bytes = bytes - #redis.call('LPOP', messages)
    count = count - 1
  end
end

local function save(seconds)
  redis.call('HSET', position, 'epoch', epoch, 'offset', string.format('%.0f', offset),
    'bytes', string.format('%.0f', bytes), 'run', run)
  redis.call('EXPIRE', position, seconds)
end
