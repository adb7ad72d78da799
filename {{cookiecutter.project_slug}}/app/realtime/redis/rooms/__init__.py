"""Rooms on all nodes: their history and presence, which Redis keeps by Lua scripts."""
