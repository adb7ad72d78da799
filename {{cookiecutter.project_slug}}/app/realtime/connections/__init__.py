"""Connections: their registry, their outboxes, and the delivery of frames.

`manager` has all, `connection` one of them; `delivery` writes to them, and `guard` runs the team's
code for them.
"""
