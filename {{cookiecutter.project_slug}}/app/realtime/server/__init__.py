"""The process: uvicorn with a WebSocket protocol of our own, logs, and an orderly shutdown."""
