"""Limits: who may connect, how many, and how fast each may send.

`admission` counts handshakes and connections, `origin` has the allow-list of pages, and `budget`
what clients may send and cause, at a `rate`.
"""
