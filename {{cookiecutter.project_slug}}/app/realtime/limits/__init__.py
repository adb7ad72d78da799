"""Limits on handshakes, connections and messages.

`admission` counts handshakes and connections, `origin` has the allow-list of pages, and `budget`
what clients may send and cause, at a `rate`.
"""
