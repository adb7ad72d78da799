"""The wire: how connections read and write, on uvicorn and on any other ASGI server."""
