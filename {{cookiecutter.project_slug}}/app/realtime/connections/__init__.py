"""Connections: who is connected, what waits for each client, and when it is written.

`manager` has all, `connection` one of them; `delivery` writes to them, and `guard` runs the team's
code for them.
"""
