"""FastAPI with ``broadcaster``, its backend in memory.

https://github.com/encode/broadcaster
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broadcaster import Broadcast
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

CHANNEL = "room"

broadcast = Broadcast("memory://")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect the backend while the app runs."""
    await broadcast.connect()
    yield
    await broadcast.disconnect()


app = FastAPI(lifespan=lifespan)


async def send(websocket: WebSocket) -> None:
    """Send published messages to the client."""
    async with broadcast.subscribe(channel=CHANNEL) as subscriber:
        async for event in subscriber:
            await websocket.send_text(event.message)


@app.websocket("/ws/{client_id}")
async def room(websocket: WebSocket, client_id: int) -> None:
    """Publish each message."""
    await websocket.accept()
    task = asyncio.create_task(send(websocket))
    try:
        while True:
            await broadcast.publish(channel=CHANNEL, message=await websocket.receive_text())
    except WebSocketDisconnect:
        task.cancel()
