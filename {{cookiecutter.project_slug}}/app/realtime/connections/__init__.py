"""Connections: their registry, their outboxes, and the delivery of frames.

`manager` registers all connections, and `connection` is a single one; `delivery` writes to them,
and `guard` limits the team's code that runs for them.
"""
