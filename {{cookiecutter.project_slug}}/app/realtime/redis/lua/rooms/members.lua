-- The first part of all scripts of presence. KEYS: users, nodes, the channel, one node's users.
-- ARGV: this node, the command that publishes, the size of the largest room with events.
local users, nodes, channel, node_users = unpack(KEYS)
local node, command, max_members_for_events = ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local size = redis.call('HLEN', users)
local events = {}

-- Changes a user's number of connections, and the info if the given one is newer. Empty JSON means
-- that the user left this node and returned: unless another node has the user, the info is removed.
local function change(user, difference, is_news, cause, count, info)
  local stored = redis.call('HGET', users, user) or '0 0 null'
  local total, set_at, known = string.match(stored, '^(%d+) (%d+) (.*)$')
  total = total + difference
  local event = total <= 0 and 'left' or total == difference and 'joined'
  local newer_at, newer = string.match(info or '', '^(%d+) (.*)$')
  local is_newer = newer and tonumber(newer_at) > tonumber(set_at)
  if is_newer and (newer ~= '' or total == count) then
    if newer == '' then newer = 'null' end
    if newer ~= known then event = event or 'updated' end
    set_at, known = newer_at, newer
  end
  if total > 0 then
    redis.call('HSET', users, user, table.concat({total, set_at, known}, ' '))
  else
    redis.call('HDEL', users, user)
    known = 'null'
  end
  if event and is_news then
    local head = cjson.encode({sender = user, exclude = cause, event = event})
    events[#events + 1] = string.sub(head, 1, -2) .. ',"data":' .. known .. '}'
  end
end

local function tell()
  size = math.max(size, redis.call('HLEN', users))
  if #events > 0 and size <= max_members_for_events then
    redis.call(command, channel, table.concat(events, '\n'))
  end
end
