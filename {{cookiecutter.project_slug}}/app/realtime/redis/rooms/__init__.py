"""Rooms on all nodes: history and presence, which Lua scripts keep in Redis.

`history` and `presence` are for all rooms; `feed` is the history of one room, and `room` its
presence. `quota` bounds the memory in Redis.
"""
