"""Rooms: their members, the history of their messages, and who is present."""
