"""The process: uvicorn with its own WebSocket protocol, logs, and a graceful shutdown."""
