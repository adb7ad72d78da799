"""Litestar with its channels plugin.

https://docs.litestar.dev/latest/usage/channels.html
"""

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.exceptions import WebSocketDisconnect

CHANNEL = "room"


@websocket("/ws/{client_id:int}")
async def room(socket: WebSocket, client_id: int, channels: ChannelsPlugin) -> None:
    """Broadcast each message."""
    await socket.accept()
    async with (
        channels.start_subscription([CHANNEL]) as subscriber,
        subscriber.run_in_background(socket.send_text),
    ):
        try:
            while True:
                channels.publish(await socket.receive_json(), CHANNEL)
        except WebSocketDisconnect:
            pass


@websocket("/echo")
async def echo(socket: WebSocket) -> None:
    """Echo each message."""
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


app = Litestar(
    [room, echo],
    plugins=[ChannelsPlugin(backend=MemoryChannelsBackend(), channels=[CHANNEL])],
)
