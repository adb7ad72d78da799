-- Removes a dead node's users. If the list of them is lost, all nodes write their users again. For
-- an hour, the node is marked as removed: if it returns, its users join again.
local marked_s = 3600
local lease_ends_ms = redis.call('ZSCORE', nodes, node)
if not lease_ends_ms or tonumber(lease_ends_ms) > now_ms then return end
if redis.call('EXISTS', node_users) == 0 then
  redis.call('DEL', users, nodes)
  return
end
local fields = redis.call('HGETALL', node_users)
for number = 1, #fields, 2 do
  if fields[number] ~= '' then change(fields[number], -fields[number + 1], true) end
end
tell()
redis.call('DEL', node_users)
redis.call('ZREM', nodes, node)
redis.call('HSET', node_users, '', 'removed')
redis.call('EXPIRE', node_users, marked_s)
