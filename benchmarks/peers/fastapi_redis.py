"""The ``ConnectionManager`` in several processes, the way most tutorials join them by Redis.

One PUBLISH for each message, and one task that subscribes and sends to each member in turn.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi_manager import ConnectionManager
from redis.asyncio import Redis

CHANNEL = "room"

redis = Redis.from_url(os.environ["REDIS_URL"])
manager = ConnectionManager()


async def deliver() -> None:
    """Send published messages to all connections."""
    async with redis.pubsub() as subscription:
        await subscription.subscribe(CHANNEL)
        async for event in subscription.listen():
            if event["type"] == "message":
                # Without this, one member who has just left would end the delivery to all.
                with suppress(WebSocketDisconnect, RuntimeError):
                    await manager.broadcast(json.loads(event["data"]))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Deliver while the app runs."""
    task = asyncio.create_task(deliver())
    yield
    task.cancel()
    await redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws/{client_id}")
async def publish(websocket: WebSocket, client_id: int) -> None:
    """Publish each message."""
    await manager.connect(websocket)
    try:
        while True:
            await redis.publish(CHANNEL, await websocket.receive_text())
    except WebSocketDisconnect:
        manager.disconnect(websocket)
