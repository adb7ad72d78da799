"""The endpoint: the life of a connection, from the handshake to its end.

`endpoint` is the WebSocket route; `handshake` admits and authenticates clients, and `turns` shares
the event loop among them.
"""
