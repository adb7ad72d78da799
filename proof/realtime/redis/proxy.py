"""A proxy between a service and its Valkey, which injects faults into their connections."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import pytest

from ..live import wait_until
from .valkey import Valkey

CHUNK_BYTES = 65_536


class Link:
    """One connection of the service. Replies end after ``replies_left`` bytes, None for never."""

    def __init__(self, service: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.service = service
        self.server = server
        self.is_subscriber = False
        self.flows = asyncio.Event()
        self.flows.set()
        self.is_forgotten = False
        self.replies_left: int | None = None

    def pass_command(self, data: bytes) -> None:
        """Forward data of the service."""
        self.is_subscriber |= b"\r\nSUBSCRIBE\r\n" in data
        self.server.write(data)

    def pass_reply(self, data: bytes) -> None:
        """Forward data of the server, at most ``replies_left`` bytes."""
        if self.replies_left is None:
            self.service.write(data)
        else:
            self.service.write(data[: self.replies_left])
            self.replies_left = max(0, self.replies_left - len(data))

    @property
    def is_cut(self) -> bool:
        """Whether no more replies may pass."""
        return self.replies_left == 0

    def close(self) -> None:
        """Close both ends after the forwarded data."""
        self.service.close()
        self.server.close()


class Proxy:
    """Forwards all data in both directions, unless a fault is set."""

    def __init__(self, url: str, server_url: str) -> None:
        self.url = url
        self._address = urlsplit(url)
        self._server_path = urlsplit(server_url).path
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._delay_s = 0.0
        self._torn = b""

    @property
    def idle(self) -> bool:
        """Whether it has no connection."""
        return not self._links

    async def open(self) -> None:
        """Accept connections."""
        host, port = self._address.hostname, self._address.port
        if host is None:
            self._listener = await asyncio.start_unix_server(self._serve, self._address.path)
        else:
            self._listener = await asyncio.start_server(self._serve, host, port, reuse_port=True)

    def close(self) -> None:
        """Close all connections and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
        for link in self._links:
            link.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Accept connections in this context; at its end, wait until all are closed."""
        await self.open()
        try:
            yield
        finally:
            self.close()
            await wait_until(lambda: self.idle)

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Refuse connections in this context."""
        self.close()
        yield
        await self.open()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Keep and accept connections in this context, but forward nothing, not even a close."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @asynccontextmanager
    async def held(self, *, subscriber: bool) -> AsyncIterator[None]:
        """Forward nothing in this context on the present connections of one kind."""
        held = [link for link in self._links if link.is_subscriber == subscriber]
        for link in held:
            link.flows.clear()
        try:
            yield
        finally:
            for link in held:
                link.flows.set()

    def forget(self) -> None:
        """Discard all further data of the present connections, as a firewall may."""
        for link in self._links:
            link.is_forgotten = True

    def delay(self, seconds: float) -> None:
        """Delay all data by this time in each direction."""
        self._delay_s = seconds

    def cut_after(self, size: int, *, subscriber: bool) -> None:
        """End the replies on connections of one kind after this many more bytes."""
        for link in self._links:
            if link.is_subscriber == subscriber:
                link.replies_left = size

    def tear_answer_to(self, word: bytes) -> None:
        """End the reply to the next command that contains a word after one byte."""
        self._torn = word

    def _pass_command(self, link: Link, data: bytes) -> None:
        if self._torn and self._torn in data:
            self._torn, link.replies_left = b"", 1
        link.pass_command(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._server_path)
        except OSError:
            writer.close()
            return
        link = Link(writer, server_writer)
        self._links.add(link)
        ways = {
            asyncio.create_task(self._carry(reader, link, partial(self._pass_command, link))),
            asyncio.create_task(self._carry(server_reader, link, link.pass_reply)),
        }
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        self._links.remove(link)
        link.close()

    async def _carry(
        self, reader: asyncio.StreamReader, link: Link, pass_on: Callable[[bytes], None]
    ) -> None:
        with suppress(ConnectionError):
            while not link.is_cut:
                data = await reader.read(CHUNK_BYTES)
                await asyncio.sleep(self._delay_s)
                await self._flows.wait()
                await link.flows.wait()
                if not data:
                    return
                if not link.is_forgotten:
                    pass_on(data)


@asynccontextmanager
async def run_proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    """Run a proxy for the length of a test."""
    with socket.socket() as place:
        # Reserves the port for times when the proxy does not listen; it never listens itself.
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        place.bind(("127.0.0.1", 0))
        proxy = Proxy(f"redis://127.0.0.1:{place.getsockname()[1]}", valkey.url)
        async with proxy.running():
            yield proxy


@pytest.fixture
async def proxy(valkey: Valkey) -> AsyncIterator[Proxy]:
    """Return a proxy in front of a server that the test may break."""
    async with run_proxy(valkey) as proxy:
        yield proxy
