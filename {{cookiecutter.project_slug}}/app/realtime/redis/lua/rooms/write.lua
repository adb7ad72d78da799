-- Writes a node's users and renews its lease. Returns some nodes whose lease has expired, the
-- number of users, and some users with their connections; nil if the node must write all again.
-- Further ARGV, as named below: keep_ms is how long the keys are stored; max_bytes and max_listed
-- limit the list of users; write is the number of this write; confirmed is the number of the last
-- confirmed write, 0 if the node begins; resync is published after the changes, unless it is empty.
-- Then, for each changed user: the name, the connections, the connection that caused the change or
-- an empty string, and the info with its time or an empty string.
--
-- A node whose own lease has expired must not declare others dead: after an outage, they may
-- renew theirs later. A node without a lease declares dead only nodes whose lease ended at least
-- the duration of one lease ago.
--
-- In a node's hash, the field '' holds the number of the node's last write, also without users. A
-- write with a lower number is stale, as after a freeze of the server, and is ignored. A stored
-- number lower than that of a confirmed write means that a failover has lost data.
local keep_ms, lease_ms, max_bytes = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local write, confirmed, max_listed = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local resync = ARGV[10]

local lease_ends_ms = redis.call('ZSCORE', nodes, node)
local last_write = redis.call('HGET', node_users, '')
local stored = tonumber(last_write or 0) or 0
if lease_ends_ms and (stored < confirmed or redis.call('EXISTS', users, node_users) < 2) then
  redis.call('DEL', users, nodes)
  lease_ends_ms = false
end
local is_late = stored > write
-- A key without an expiry was not written by a node, and is replaced.
if is_late and (lease_ends_ms or redis.call('PTTL', node_users) > 0) then return false end
local was_removed = last_write == 'removed'
if not lease_ends_ms then
  if confirmed > 0 then return false end
  redis.call('DEL', node_users)
  if redis.call('EXISTS', nodes) == 0 then redis.call('DEL', users) end
end

for number = 11, #ARGV, 4 do
  local user, count, cause, info = unpack(ARGV, number, number + 3)
  count = tonumber(count)
  local difference = count - tonumber(redis.call('HGET', node_users, user) or 0)
  if count > 0 then
    redis.call('HSET', node_users, user, count)
  else
    redis.call('HDEL', node_users, user)
  end
  if difference ~= 0 or info ~= '' then
    change(user, difference, was_removed or cause ~= '', cause, count, info)
  end
end
if resync ~= '' and not was_removed then events[#events + 1] = resync end
tell()

redis.call('HSET', node_users, '', write)
redis.call('PEXPIRE', node_users, keep_ms)
if redis.call('HLEN', node_users) > 1 then
  redis.call('ZADD', nodes, now_ms + lease_ms, node)
  redis.call('PEXPIRE', users, keep_ms)
  redis.call('PEXPIRE', nodes, keep_ms)
else
  redis.call('ZREM', nodes, node)
end

local listed, cursor = {}, '0'
while #listed < 2 * max_listed and max_bytes > 0 do
  local found = redis.call('HSCAN', users, cursor, 'COUNT', max_listed)
  for _, field in ipairs(found[2]) do
    if max_bytes > 0 or #listed % 2 == 1 then listed[#listed + 1] = field end
    max_bytes = max_bytes - #field
  end
  cursor = found[1]
  if cursor == '0' then break end
end
local dead = {}
if not lease_ends_ms or tonumber(lease_ends_ms) > now_ms then
  local latest_ms = lease_ends_ms and now_ms or now_ms - lease_ms
  dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', latest_ms, 'LIMIT', 0, 100)
end
return {dead, redis.call('HLEN', users), listed}
