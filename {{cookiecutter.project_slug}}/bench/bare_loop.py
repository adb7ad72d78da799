"""The bare loop: the least that any server does for this traffic. Run as a script.

It answers the upgrade and passes on frames that its clients have made ready: those in a text frame
to every member, those in a binary one back to the sender, all that one read brings in one write. It
validates nothing and knows nobody; that is what the service needs the rest of its time for.
"""

import asyncio
from collections.abc import Iterator
from typing import ClassVar, cast

import uvloop

TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88

# Each client sends the key that RFC 6455 §1.3 has for an example, so this is the answer to it.
UPGRADE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLBMiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
WELCOME = b'\x81\x12{"type":"welcome"}'


class Member(asyncio.Protocol):
    """One connection."""

    members: ClassVar[dict["Member", None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the handshake."""
        self.transport = cast(asyncio.Transport, transport)
        self.unread = b""

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the member."""
        self.members.pop(self, None)

    def data_received(self, data: bytes) -> None:
        """Answer the handshake, which is small and comes in one piece; then pass on frames."""
        if self not in self.members:
            self.members[self] = None
            self.transport.write(UPGRADE + WELCOME)
            return
        ready = {TEXT: b"", BINARY: b"", CLOSE: b""}
        for opcode, payload in self._whole_frames(data):
            ready[opcode] += payload
        if ready[TEXT]:
            for member in self.members:
                member.transport.write(ready[TEXT])
        if ready[BINARY]:
            self.transport.write(ready[BINARY])
        if ready[CLOSE]:
            self.transport.close()

    def _whole_frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        # None is shorter than 8 bytes: they hold 2 to 65,535, and are masked with zeros.
        data, at = self.unread + data, 0
        while at + 8 <= len(data):
            size, start = data[at + 1] & 0x7F, at + 6
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 8
            if start + size > len(data):
                break
            yield data[at], data[start : start + size]
            at = start + size
        self.unread = data[at:]


async def serve() -> None:
    """Print the port, which the system chooses, and serve until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Member, "127.0.0.1", 0, backlog=2048)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
