-- The first part of all scripts of presence. KEYS: users, nodes, the channel, one node's users.
-- ARGV: this node, the command that publishes, the size of the largest room with events.
local users, nodes, channel, node_users = unpack(KEYS)
local node, command, max_told = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local size = redis.call('HLEN', users)
local events = {}

local function change(user, difference, event, cause)
  local total = redis.call('HINCRBY', users, user, difference)
  if total <= 0 then redis.call('HDEL', users, user) end
  if event and (total <= 0 or total == difference) then
    events[#events + 1] =
      cjson.encode({sender = user, data = cjson.null, exclude = cause, event = event})
  end
end

local function tell()
  size = math.max(size, redis.call('HLEN', users))
  if #events > 0 and size <= max_told then
    redis.call(command, channel, table.concat(events, '\n'))
  end
end
