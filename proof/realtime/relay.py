"""A relay: passes TCP connections on, as a load balancer or a name with changing addresses does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

CHUNK_BYTES = 65_536


class Relay:
    """Forwards each connection to a port of this machine, looked up for each one."""

    def __init__(self, next_port: Callable[[], int]) -> None:
        self.port = 0
        self._next_port = next_port
        self._clients: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accept connections on a port that the system picks."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield
            self.abort()

    def abort(self) -> None:
        """Abort all connections."""
        for client in self._clients:
            client.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, node = await asyncio.open_connection("127.0.0.1", self._next_port())
        except OSError:
            client.transport.abort()
            return
        self._clients.add(client)
        ways = [
            asyncio.create_task(_pass(reader, node)),
            asyncio.create_task(_pass(answers, client)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._clients.remove(client)
            for way in ways:
                way.cancel()
            for writer in (client, node):
                writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
