-- The first part of the scripts of history: reads a room's position, or begins an epoch. KEYS:
-- messages, position. ARGV: how long messages are stored in milliseconds, how long the position is
-- stored in seconds, the name of a new epoch.
--
-- The messages are a list of "<Unix milliseconds> <envelope>", the newest last.
local messages, position = KEYS[1], KEYS[2]
local keep_ms, position_s, new_epoch = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')

-- Anybody with access to Redis can write these keys. What this script cannot have written is lost.
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then error(reply.err) end
  return {}
end

local function is_count(number) return number and number >= 0 and number < 2^53 and number % 1 == 0 end

local epoch, offset, bytes, owner =
  unpack(read('HMGET', position, 'epoch', 'offset', 'bytes', 'run'))
local count = read('LLEN', messages)
offset, bytes = tonumber(offset), tonumber(bytes)
if owner ~= run or type(count) ~= 'number' or not is_count(offset) or not is_count(bytes)
  or not string.match(epoch or '', '^[%w_-]+$') or #epoch > 64 then
  redis.call('DEL', messages, position)
  epoch, offset, bytes, count = new_epoch, 0, 0, 0
end
if count == 0 then bytes = 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function trim(max_count, max_bytes)
  while count > 0 do
    local oldest_ms = tonumber(string.match(redis.call('LINDEX', messages, 0), '^%d+') or 0)
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
