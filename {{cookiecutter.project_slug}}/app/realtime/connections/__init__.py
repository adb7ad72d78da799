"""Connections: who is connected, what waits for each client, and when it is written."""
