"""The service: your files, and the engine in `app.realtime`."""
