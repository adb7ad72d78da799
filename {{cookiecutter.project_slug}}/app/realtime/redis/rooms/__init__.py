"""Rooms on all nodes: history and presence, which Lua scripts keep in Redis.

`history` and `presence` are for all rooms; `feed` has one room's messages on this node, and
`local_presence` its users. `quota` bounds the memory in Redis.
"""
