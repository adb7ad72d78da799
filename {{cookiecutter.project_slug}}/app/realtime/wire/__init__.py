"""The wire: how connections read and write, on uvicorn and on any other ASGI server.

`asgi` defines the interface and implements it for any ASGI server, `server.websocket` for uvicorn;
`frame` encodes and decodes frames, and `inbox` queues messages for the application.
"""
