"""A room of python-socketio.

https://python-socketio.readthedocs.io/en/stable/server.html
"""

import socketio

ROOM = "room"

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event
async def join(sid: str) -> str:
    """Join the room."""
    await server.enter_room(sid, ROOM)
    return "ok"


@server.event
async def message(sid: str, data: object) -> None:
    """Broadcast each message."""
    await server.emit("message", data, room=ROOM)
