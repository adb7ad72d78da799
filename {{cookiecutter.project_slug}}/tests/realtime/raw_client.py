"""A client without a library: it sends any bytes, and reads only when told to."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from websockets.utils import apply_mask

from .client import DEADLINE_S, ConnectOptions

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
MASK = b"\x3d\x00\xff\x81"


def masked(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, reserved: int = 0, mask: bytes = MASK
) -> bytes:
    """Return a masked frame, legal or not; ``reserved`` has the bits RSV1 to RSV3."""
    first = (FIN if fin else 0) | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        header = struct.pack("!BB", first, 0x80 | size)
    elif size < 65_536:
        header = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        header = struct.pack("!BBQ", first, 0x80 | 127, size)
    return header + mask + apply_mask(payload, mask)


def masked_close(code: int, reason: str = "") -> bytes:
    """Return a masked close frame."""
    return masked(code.to_bytes(2) + reason.encode(), CLOSE)


class RawClient:
    """One connection. Every wait has a deadline."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send any bytes, in one TCP segment if possible."""
        self._writer.write(data)

    def send_eof(self) -> None:
        """Shut down the sending side only."""
        self._writer.write_eof()

    async def upgraded(self) -> None:
        """Read the answer to the handshake; it must be 101."""
        assert (await self.head()).startswith("HTTP/1.1 101 ")

    async def head(self) -> str:
        """Return the head of a response."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.read(1)
        return head.decode()

    async def rest(self) -> bytes:
        """Return all bytes up to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.read()

    async def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next frame."""
        first, size = await self.read(2)
        assert first & FIN
        if size == 126:
            size = int.from_bytes(await self.read(2))
        elif size == 127:
            size = int.from_bytes(await self.read(8))
        return first ^ FIN, await self.read(size)

    async def text(self) -> dict[str, Any]:
        """Return the JSON object in the next frame, which must be a text."""
        opcode, payload = await self.frame()
        assert opcode == TEXT
        content: dict[str, Any] = json.loads(payload)
        return content

    async def close_code(self) -> int:
        """Read up to the close frame, and return its code."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2])

    async def ended(self) -> None:
        """Wait for the end of the connection; no byte may come before it."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):  # a reset, if the server has unread input
                assert await self._reader.read(1) == b""

    def vanish(self) -> None:
        """Reset the connection."""
        linger = struct.pack("ii", 1, 0)
        peer: socket.socket = self._writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readexactly(size)


@asynccontextmanager
async def raw_connection(
    host: str, port: int, *, source: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawClient]:
    """Connect without sending."""
    peer = socket.socket()
    peer.bind((source, 0))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.setblocking(False)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.get_running_loop().sock_connect(peer, (host, port))
        reader, writer = await asyncio.open_connection(
            sock=peer, ssl=tls, server_hostname=tls and host, limit=1
        )
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def handshake(options: ConnectOptions, *, path: str | None = None, **headers: str) -> bytes:
    """Return the request that opens a WebSocket, on ``path`` or else on that of the options."""
    uri = urlsplit(options.uri)
    headers = {
        "Host": uri.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        **options.headers,
        **headers,
    }
    if options.subprotocols:
        headers["Sec-WebSocket-Protocol"] = ", ".join(options.subprotocols)
    lines = [
        f"GET {path or f'{uri.path}?{uri.query}'} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def raw_client(
    options: ConnectOptions, *, path: str | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawClient]:
    """Connect and send a `handshake`."""
    uri = urlsplit(options.uri)
    assert uri.hostname is not None
    assert uri.port is not None
    async with raw_connection(uri.hostname, uri.port, tls=tls) as client:
        client.send(handshake(options, path=path))
        yield client
