"""FastAPI as its documentation shows it: the ``ConnectionManager``, and an endpoint that echoes.

https://fastapi.tiangolo.com/advanced/websockets/, with messages in JSON. ``ENCODE=once`` encodes a
message once instead of once for each member.
"""

import json
import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()


class ConnectionManager:
    """All connections."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Accept a connection."""
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        """Remove a closed connection."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: object) -> None:
        """Send to all connections, one after the other."""
        for connection in list(self.active_connections):
            await connection.send_json(message)


class EncodingOnce(ConnectionManager):
    """The same, but encodes each message once."""

    async def broadcast(self, message: object) -> None:
        """Send to all connections, one after the other."""
        text = json.dumps(message, separators=(",", ":"))
        for connection in list(self.active_connections):
            await connection.send_text(text)


manager = EncodingOnce() if os.environ.get("ENCODE") == "once" else ConnectionManager()


@app.websocket("/ws/{client_id}")
async def broadcast(websocket: WebSocket, client_id: int) -> None:
    """Broadcast each message."""
    await manager.connect(websocket)
    try:
        while True:
            await manager.broadcast(await websocket.receive_json())
    except WebSocketDisconnect:
        manager.disconnect(websocket)


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    """Echo each message."""
    await websocket.accept()
    try:
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"Message text was: {data}")
    except WebSocketDisconnect:
        pass
