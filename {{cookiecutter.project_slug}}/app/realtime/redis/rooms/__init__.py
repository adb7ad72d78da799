"""Rooms on all nodes: history and presence, which Lua scripts keep in Redis.

`history` and `presence` serve all rooms; `feed` delivers one room's messages on this node, and
`local_presence` counts its users. `quota` bounds the memory in Redis.
"""
