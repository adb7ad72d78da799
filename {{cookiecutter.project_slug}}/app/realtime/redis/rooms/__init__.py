"""Rooms on all nodes: history and presence, which Lua scripts keep in Redis."""
