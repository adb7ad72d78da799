"""The ``websockets`` library's own server, with its ``broadcast()``. Argument: the port.

https://websockets.readthedocs.io/en/stable/topics/broadcast.html
"""

import json
import sys
from contextlib import suppress

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

members: set[ServerConnection] = set()


async def echo(websocket: ServerConnection) -> None:
    """Echo each message."""
    async for text in websocket:
        await websocket.send(text)


async def room(websocket: ServerConnection) -> None:
    """Broadcast each message."""
    members.add(websocket)
    try:
        async for text in websocket:
            broadcast(members, json.dumps(json.loads(text), separators=(",", ":")))
    finally:
        members.discard(websocket)


async def handler(websocket: ServerConnection) -> None:
    """Serve one connection."""
    with suppress(ConnectionClosed):
        await (echo if websocket.request.path == "/echo" else room)(websocket)


async def main() -> None:
    """Serve until the process is stopped."""
    async with serve(handler, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
