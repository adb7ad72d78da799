"""Rooms: members, message history, and presence.

`rooms` has the members, `history` and `presence` the rest, in the memory of one process; `options`
has what may differ from room to room.
"""
