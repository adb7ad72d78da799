"""The wire: how connections read and write, on uvicorn and on any other ASGI server.

`asgi` has the interface, and the wire of other servers; `frame` reads and writes frames, and
`inbox` has the messages that wait for the application.
"""
