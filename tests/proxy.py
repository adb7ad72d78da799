"""A TCP proxy between clients and a service, which injects faults into their connections."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

CHUNK_BYTES = 65_536
DEADLINE_S = 30.0
POLL_S = 0.02


class Link:
    """One connection of a client. It is cut after ``bytes_left`` bytes to the client."""

    def __init__(self, client: asyncio.StreamWriter, service: asyncio.StreamWriter) -> None:
        self.bytes_left: int | None = None
        self._client = client
        self._service = service

    def abort(self) -> None:
        """Cut it without a close frame, and drop the data that was not forwarded."""
        self._client.transport.abort()
        self._service.transport.abort()

    async def close(self) -> None:
        """Close both ends after the forwarded data; wait until they are closed."""
        for end in (self._client, self._service):
            end.close()
            with suppress(OSError):
                await end.wait_closed()

    async def carry(self, reader: asyncio.StreamReader, flows: asyncio.Event, *, up: bool) -> None:
        """Forward one direction until it ends."""
        writer = self._service if up else self._client
        with suppress(ConnectionError):
            while data := await reader.read(CHUNK_BYTES):
                await flows.wait()
                if not up and self.bytes_left is not None:
                    data = data[: self.bytes_left]
                    self.bytes_left -= len(data)
                writer.write(data)
                await writer.drain()
                if self.bytes_left == 0:
                    return


class Proxy:
    """Forwards all data to ``target``, a port of this machine, unless a fault is set.

    ``budget()`` is the number of bytes after which a new connection is cut; with None, it is not.
    ``connections`` and ``cuts`` are counters.
    """

    def __init__(self) -> None:
        self.port = 0
        self.target = 0
        self.refuses = False
        self.connections = 0
        self.cuts = 0
        self.budget: Callable[[], int | None] = lambda: None
        self._links: set[Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._loop = asyncio.new_event_loop()

    @property
    def origin(self) -> str:
        """The origin of pages that come through it."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Cut all connections."""
        self._call(self._abort)

    def _abort(self) -> None:
        for link in self._links:
            link.abort()

    def freeze(self) -> None:
        """Keep and accept connections, but forward nothing."""
        self._call(self._flows.clear)

    def thaw(self) -> None:
        """Forward the held data, and all data after it."""
        self._call(self._flows.set)

    def _call(self, function: Callable[[], object]) -> None:
        async def call() -> None:
            function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(DEADLINE_S)

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        """Serve in a thread of its own."""
        ready = threading.Event()
        stop = asyncio.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()
            server.close()
            self._flows.set()
            # A connection that was just accepted becomes a link only now.
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                self._abort()
                await asyncio.wait(tasks, timeout=POLL_S)

        thread = threading.Thread(target=self._loop.run_until_complete, args=[serve()])
        thread.start()
        try:
            assert ready.wait(DEADLINE_S)
            yield self
        finally:
            self._call(stop.set)
            thread.join(DEADLINE_S)
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.refuses:
                raise ConnectionRefusedError
            to_service = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, to_service[1])
        link.bytes_left = self.budget()
        self._links.add(link)
        ways = [
            asyncio.create_task(link.carry(reader, self._flows, up=True)),
            asyncio.create_task(link.carry(to_service[0], self._flows, up=False)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if link.bytes_left == 0:
            self.cuts += 1
            link.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        await link.close()
        self._links.discard(link)
