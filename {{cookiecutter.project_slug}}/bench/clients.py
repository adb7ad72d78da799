"""The load: connections that one loop serves, and books on what they get.

The client must not be slower than the server, so it looks at whole chunks of frames: each message
holds a stamp, a chunk's stamps are counted, and the numbers in the first and the last one tell
whether that is right. Only faults that make up for each other within a chunk stay hidden.
"""

import re
import selectors
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from dev.connect import ConnectOptions

TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88

# A stamp is T<19 digits: when it was due, in ns>S<10 digits: its number>@stamp@: JSON escapes none.
STAMP = b"T%019dS%010d@stamp@"
BLANK_STAMP = STAMP % (0, 0)
END = b"@stamp@"
DUE_NS, NUMBER = slice(-30, -11), slice(-10, None)

# More than there ever is to read; from 128 KiB on, glibc would map and unmap memory each time.
CHUNK_BYTES = 65_536
# What may belong to the next chunk: a stamp that was cut, or a close frame.
KEPT_BYTES = 127
CLOSE_AT_END = re.compile(rb".*\x88[\x02-\x7d](..)(.*)", re.DOTALL)

PATIENCE_S = 2.0


class Failure(Exception):
    """Why there is no figure."""


def frame(payload: bytes, *, opcode: int = TEXT, masked: bool = True) -> bytes:
    """Return a WebSocket frame: a client's, which is masked, or a server's (RFC 6455 §5.2).

    The mask is zero, so sending costs the client little, and the server unmasks all the same. §5.3
    wants masks that a page cannot foresee, lest it write a request for a proxy on the way; here is
    no page and no proxy.
    """
    size, mask_bit = len(payload), 0x80 if masked else 0
    if size < 126:
        header = struct.pack("!BB", opcode, mask_bit | size)
    elif size < 65_536:
        header = struct.pack("!BBH", opcode, mask_bit | 126, size)
    else:
        header = struct.pack("!BBQ", opcode, mask_bit | 127, size)
    return header + bytes(4 if masked else 0) + payload


def handshake(options: ConnectOptions) -> bytes:
    """Return the request for an upgrade, with the key that RFC 6455 §1.3 has for an example."""
    url = urlsplit(options.uri)
    headers = options.headers | {
        "Host": url.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    if options.subprotocols:
        headers["Sec-WebSocket-Protocol"] = ", ".join(options.subprotocols)
    first = f"GET {url.path}{'?' if url.query else ''}{url.query} HTTP/1.1"
    lines = [first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


class Message:
    """A frame to be sent again and again, each time with another stamp."""

    def __init__(self, payload: bytes, opcode: int = TEXT) -> None:
        self._before, self._after = frame(payload, opcode=opcode).split(BLANK_STAMP)

    def stamped(self, number: int, due_ns: int = 0) -> bytes:
        """Return the frame with this stamp."""
        return self._before + STAMP % (due_ns, number) + self._after


class Client:
    """One connection: how many messages it has asked for and got, and which number is next."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.asked = self.got = self.next = self.gaps = 0
        self._rest = b""

    def welcomed(self) -> bool:
        """Read on; return whether the first frame has come.

        Raises:
            Failure: the handshake was refused, or the connection closed at once.

        """
        self._rest += self.receive()
        head, _, frames = self._rest.partition(b"\r\n\r\n")
        if b" 101 " not in head[:16]:
            msg = f"the handshake was answered with {head.splitlines()[0].decode()}"
            raise Failure(msg)
        if frames and frames[0] != TEXT:
            raise Failure(self._closed())
        return bool(frames)

    def ask(self, message: Message) -> None:
        """Ask for the next message, with this one."""
        self.socket.sendall(message.stamped(self.asked))
        self.asked += 1

    def receive(self) -> bytes:
        """Return what has come.

        Raises:
            Failure: the connection has ended.

        """
        data = self.socket.recv(CHUNK_BYTES)
        if not data:
            raise Failure(self._closed())
        return data

    def take(self, data: bytes) -> bytes:
        """Enter received data in the books; return it up to the end of its last stamp."""
        stamped, found, rest = (self._rest + data).rpartition(END)
        self._rest = rest[-KEPT_BYTES:]
        if found:
            count, first = stamped.count(END) + 1, int(stamped.partition(END)[0][NUMBER])
            last = int(stamped[NUMBER])
            self.gaps += first != self.next or last - first != count - 1
            self.got += count
            self.next = last + 1
        return stamped

    def _closed(self) -> str:
        close = CLOSE_AT_END.fullmatch(self._rest)
        if close is None:
            return "the connection was lost"
        reason = close[2].decode(errors="replace")
        return f"the connection was closed: {int.from_bytes(close[1], 'big')} {reason}"


class Clients:
    """All connections of one measurement, which leave properly unless it failed."""

    def __init__(self) -> None:
        self.members: list[Client] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with suppress(OSError):
            if failed is None:
                self._leave()
        for member in self.members:
            member.socket.close()
        self._selector.close()

    def open(self, all_options: Iterable[ConnectOptions]) -> None:
        """Connect, all at the same time, until everybody is welcomed."""
        opening = {self._connect(options) for options in all_options}
        while opening:
            opening -= {member for member in self.ready() if member.welcomed()}

    def _connect(self, options: ConnectOptions) -> Client:
        url = urlsplit(options.uri)
        member = Client(socket.create_connection((url.hostname, url.port), PATIENCE_S))
        self.members.append(member)
        self._selector.register(member.socket, selectors.EVENT_READ, member)
        member.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        member.socket.sendall(handshake(options))
        # Who never has more ahead than fits into a socket's buffer need not wait to send.
        member.socket.setblocking(False)
        return member

    def ready(self, timeout_s: float | None = None) -> list[Client]:
        """Wait for clients that have something to read.

        Raises:
            TimeoutError: there is none for `PATIENCE_S`, unless another timeout was given.

        """
        events = self._selector.select(PATIENCE_S if timeout_s is None else timeout_s)
        if not events and timeout_s is None:
            msg = f"nothing came for {PATIENCE_S:g} s"
            raise TimeoutError(msg)
        return [key.data for key, _ in events]

    def read(self) -> list[Client]:
        """Wait for clients that have something to read, and read it; return them."""
        ready = self.ready()
        for member in ready:
            member.take(member.receive())
        return ready

    def ask(self, message: Message) -> None:
        """Ask for a message for each, and wait until nothing is owed."""
        for member in self.members:
            member.ask(message)
        self._wait()

    def finish(self, message: Message) -> None:
        """Wait until nothing is owed; then ask for one more each, behind which nothing can be late.

        Raises:
            Failure: messages are missing, came twice, or out of order.

        """
        with suppress(TimeoutError):
            self._wait()
        self.ask(message)
        asked = sum(member.asked for member in self.members)
        got = sum(member.got for member in self.members)
        gaps = sum(member.gaps for member in self.members)
        if got != asked or gaps:
            msg = f"{got:,} of {asked:,} messages came; out of sequence: {gaps:,}"
            raise Failure(msg)

    def _wait(self) -> None:
        while any(member.next < member.asked for member in self.members):
            self.read()

    def _leave(self) -> None:
        # When this ends, the server is done with everybody, and something else can be measured.
        for member in self.members:
            member.socket.sendall(frame(struct.pack("!H", 1000), opcode=CLOSE))
        for member in self.members:
            member.socket.settimeout(PATIENCE_S)
            while member.socket.recv(CHUNK_BYTES):
                pass
