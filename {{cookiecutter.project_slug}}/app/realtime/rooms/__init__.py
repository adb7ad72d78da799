"""Rooms: their members, the history of their messages, and who is present.

`rooms` has the members, `history` and `presence` the rest, in the memory of one process; `options`
has what may differ from room to room.
"""
