"""Limits on handshakes, connections and messages.

`admission` counts handshakes and connections, `origin` has the allow-list of web sites, `budget`
charges clients for what they send and cause, and `rate` has the algorithm.
"""
