"""WebSocket servers with known faults, which the load generator must report."""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from http import HTTPStatus

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Handler = Callable[[ServerConnection], Awaitable[None]]
Fault = Callable[[int, str], list[str]]

PIECE_BYTES = 3


@contextmanager
def running(handler: Handler, *, refuse: bool = False, trickle: bool = False) -> Iterator[int]:
    """Serve in a thread, and yield the port.

    ``refuse`` refuses handshakes, ``trickle`` sends in pieces of a few bytes.
    """
    ports: queue.Queue[int] = queue.Queue()
    stops: queue.Queue[Callable[[], object]] = queue.Queue()

    async def main() -> None:
        stop = asyncio.Event()
        async with _serve(handler, refuse=refuse, trickle=trickle) as port:
            stops.put(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
            ports.put(port)
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        yield ports.get(timeout=60)
    finally:
        stops.get(timeout=60)()
        thread.join()


@asynccontextmanager
async def _serve(handler: Handler, *, refuse: bool, trickle: bool) -> AsyncIterator[int]:
    async def patient(connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await handler(connection)

    def process(connection: ServerConnection, _: Request) -> Response | None:
        return connection.respond(HTTPStatus.FORBIDDEN, "no\n") if refuse else None

    async with serve(
        patient,
        "127.0.0.1",
        0,
        process_request=process,
        max_size=None,
        write_limit=2**24,
        close_timeout=5,
    ) as server:
        if not trickle:
            yield _port(server)
            return
        relays: list[asyncio.Task[None]] = []

        def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relays.append(asyncio.create_task(_relay(reader, writer, _port(server))))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as proxy:
            yield _port(proxy)
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


def _port(server: Server | asyncio.Server) -> int:
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with suppress(ConnectionError):
            await asyncio.gather(
                _pass_on(reader, server_writer, 2**16), _pass_on(server_reader, writer, PIECE_BYTES)
            )
    finally:
        for each in (writer, server_writer):
            each.transport.abort()
            with suppress(ConnectionError):
                await each.wait_closed()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, piece_bytes: int
) -> None:
    while piece := await reader.read(piece_bytes):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write_eof()


async def echo(connection: ServerConnection) -> None:
    """Send each message back."""
    async for message in connection:
        await connection.send(message)


def room(fault: Fault = lambda number, text: [text], *, delay_s: float = 0) -> Handler:
    """Return a handler that applies a fault to each message and broadcasts the result."""
    members: set[ServerConnection] = set()
    count = 0

    async def handler(connection: ServerConnection) -> None:
        nonlocal count
        members.add(connection)
        try:
            async for message in connection:
                count += 1
                await asyncio.sleep(delay_s)
                for text in fault(count, str(message)):
                    broadcast(members, text)
        finally:
            members.discard(connection)

    return handler
