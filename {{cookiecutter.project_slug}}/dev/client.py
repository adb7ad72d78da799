"""A client for the terminal: type a command as JSON, see every frame. ``python -m dev.client``."""

import asyncio
import json
import sys

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from app.settings import Settings

from .connect import connect_options


async def print_frames(connection: ClientConnection) -> None:
    """Print each frame, and answer pings, as every client should."""
    async for frame in connection:
        print(f"< {frame!s}", flush=True)
        if json.loads(frame)["type"] == "ping":
            await connection.send('{"type": "pong"}')


async def send_lines(connection: ClientConnection) -> None:
    """Send each line of standard input, until it ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async for line in lines:
        if text := line.decode().strip():
            await connection.send(text)


async def main(user: str) -> None:
    """Talk to the service that `.env` describes, until the input ends or the service closes."""
    options = await connect_options(Settings.load(), user)
    async with connect(options.uri, additional_headers=options.headers, proxy=None) as connection:
        printing = asyncio.create_task(print_frames(connection))
        sending = asyncio.create_task(send_lines(connection))
        await asyncio.wait({printing, sending}, return_when=asyncio.FIRST_COMPLETED)
        if not printing.done():
            sending.result()
            await connection.close()
        sending.cancel()
        await asyncio.wait({printing})
        if printing.exception() and not isinstance(printing.exception(), ConnectionClosed):
            printing.result()
    print(f"closed: {connection.close_code} {connection.close_reason}")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "alice"))
    except (ConnectionClosed, OSError) as failure:
        sys.exit(f"error: {failure}; is the service running? (make run)")
    except KeyboardInterrupt:
        pass
