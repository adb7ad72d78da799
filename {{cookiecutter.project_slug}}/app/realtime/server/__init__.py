"""The process: uvicorn with its own WebSocket protocol, logs, and a graceful shutdown.

`process` has `serve`; `http` and `websocket` are its protocols, `logging` and `log_limit` its log.
"""
