"""Rooms: members, message history, and presence.

`rooms` has the members, and `frames` what they get. `history` keeps their messages and `presence`
counts the users, both in the memory of one process. `options` has the settings that may differ from
room to room.
"""
